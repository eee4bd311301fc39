"""Ranges: what is taken, what is refused, and that the refusal names the field and the value."""

import math
from typing import Any

import pytest

from appliance.engine.sampling_params import SamplingParams
from appliance.errors import RequestError


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("min_p", 0, 1),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
        ("repetition_penalty", 0.01, 10),
        ("seed", -(2**63), 2**64 - 1),
        ("top_k", 0, 10**9),
    ],
)
def test_both_ends_of_a_range_are_taken(name: str, low: Any, high: Any) -> None:
    assert getattr(SamplingParams(1, **{name: low}), name) == low
    assert getattr(SamplingParams(1, **{name: high}), name) == high


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.01),
        ("temperature", 2.01),
        ("temperature", math.inf),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("presence_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", 2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 5e-324),
        ("repetition_penalty", 0.009),
        ("repetition_penalty", 10.1),
        ("top_k", -1),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(1, **{name: value})
    assert caught.value.param == name
    assert name in str(caught.value)
    assert f"{value:g}" in str(caught.value) or str(value) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    ],
)
def test_nan_is_in_no_range(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is nan"):
        SamplingParams(1, **{name: math.nan})


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_an_answer_has_room_for_one_token(max_tokens: int) -> None:
    with pytest.raises(RequestError, match=f"max_tokens is {max_tokens}") as caught:
        SamplingParams(max_tokens)
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize("bias", [-100.5, 100.5, math.nan])
def test_a_bias_out_of_range_names_its_token(bias: float) -> None:
    with pytest.raises(RequestError, match=f"token 17 is {bias:g}") as caught:
        SamplingParams(1, logit_bias={3: 100, 17: bias})
    assert caught.value.param == "logit_bias"


@pytest.mark.parametrize("wish", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}])
def test_three_ways_to_say_greedy(wish: dict[str, Any]) -> None:
    assert SamplingParams(1, **wish).greedy
    assert not SamplingParams(1).greedy


@pytest.mark.parametrize(
    "wish",
    [
        {"logit_bias": {1: 0.5}},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"repetition_penalty": 1.1},
    ],
)
def test_what_changes_logits_is_known(wish: dict[str, Any]) -> None:
    assert SamplingParams(1, **wish).changes_logits
    assert not SamplingParams(1, temperature=0.3, top_k=4, top_p=0.5, min_p=0.1).changes_logits
