"""The sampler against a reference that is plain and slow: float64, every step by full sorts."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.sampler import Sampler
from appliance.engine.sampling_params import MIN_REPETITION_PENALTY, SamplingParams
from appliance.engine.token_constraint import AllowedTokens

QWEN_VOCAB_SIZE = 151_936


def logits_of(seed: int, vocab_size: int, spread: float = 3.0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return random.normal(0, spread, vocab_size).astype(np.float32)


def sampler(
    params: Mapping[str, Any], prompt_ids: Sequence[int] = (), vocab_size: int = 64
) -> Sampler:
    scratch = np.empty(vocab_size, dtype=np.float32)
    return Sampler(SamplingParams(1, **params), prompt_ids, scratch)


def allowing(ids: Sequence[int] | NDArray[np.intp], vocab_size: int = 64) -> AllowedTokens:
    marks = np.zeros(vocab_size, dtype=np.bool_)
    marks[ids] = True
    return AllowedTokens(np.packbits(marks, bitorder="little").tobytes(), vocab_size)


class Reference:
    """What the words mean, written for reading: one probability per token, float64."""

    def __init__(self, params: Mapping[str, Any], prompt_ids: Sequence[int] = ()) -> None:
        self.params = SamplingParams(1, **params)
        self.prompt_ids = list(prompt_ids)
        self.answer_ids: list[int] = []

    def adjusted(self, logits: NDArray[np.float32]) -> list[float]:
        params = self.params
        values = [float(x) for x in logits]
        for i in range(len(values)):
            values[i] += params.logit_bias.get(i, 0.0)
        for i in {*self.prompt_ids, *self.answer_ids}:
            if values[i] > 0:
                values[i] /= params.repetition_penalty
            else:
                values[i] *= params.repetition_penalty
        for i, count in Counter(self.answer_ids).items():
            values[i] -= params.presence_penalty + params.frequency_penalty * count
        return values

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        params = self.params
        values = np.array(self.adjusted(logits)) / params.temperature
        weights = np.exp(values - values.max())
        weights[weights < params.min_p] = 0
        likeliest_first = sorted(range(len(weights)), key=lambda i: -weights[i])
        if params.top_k:
            weights[likeliest_first[params.top_k :]] = 0
        weights /= weights.sum()
        so_far = 0.0
        for i in likeliest_first:
            if so_far >= params.top_p:
                weights[i] = 0
            so_far += weights[i]
        probabilities: NDArray[np.float64] = weights / weights.sum()
        return probabilities

    def draw(self, logits: NDArray[np.float32], uniform: float) -> tuple[int, float]:
        """The token at `uniform` when probabilities lie side by side in order of their ids, and
        how far `uniform` is from the nearest border between two tokens."""
        borders = np.cumsum(self.probabilities(logits))
        token_id = int(np.searchsorted(borders, uniform, side="right"))
        return token_id, float(np.abs(borders - uniform).min())


def assert_draws_like_the_reference(
    params: dict[str, Any],
    *,
    vocab_size: int = 64,
    draws: int = 20,
    logits_seed: int = 0,
    allowed: set[int] | None = None,
) -> None:
    """A seeded sampler takes the very tokens the reference takes for the same uniform numbers.

    To what is not `allowed` the reference is given no chance: a logit that no bias or penalty
    raises.
    """
    prompt_ids = [1, 5, 5, 9]
    seed = params.setdefault("seed", 11)
    sampled = sampler(params, prompt_ids, vocab_size)
    reference = Reference(params, prompt_ids)
    random = np.random.Generator(np.random.PCG64(seed))
    may_be = set(range(vocab_size)) if allowed is None else allowed
    tokens = None if allowed is None else allowing(sorted(allowed), vocab_size)
    others = sorted(set(range(vocab_size)) - may_be)
    for step in range(draws):
        logits = logits_of(1000 * logits_seed + step, vocab_size)
        before = logits.copy()
        ruled = logits.copy()
        ruled[others] = -np.inf
        expected, margin = reference.draw(ruled, random.random())
        got = sampled.sample(logits, tokens)
        assert np.array_equal(logits, before), "the runner's logits were written to"
        assert got in may_be
        # float32 and float64 may disagree about a number that falls on a border.
        assert got == expected or margin < 1e-5, (step, margin)
        reference.answer_ids.append(got)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.2},
        {"temperature": 2.0},
        {"top_k": 2},
        {"top_k": 7},
        {"top_k": 64},
        {"top_k": 1000},
        {"top_p": 0.1},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"presence_penalty": 2.0},
        {"presence_penalty": -2.0},
        {"frequency_penalty": 1.5},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.5},
        {"logit_bias": {3: 5.0, 7: -100.0}},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},
        {"temperature": 1.4, "min_p": 0.1, "top_k": 5, "presence_penalty": 0.5},
    ],
    ids=str,
)
def test_each_parameter_does_what_the_reference_does(params: dict[str, Any]) -> None:
    assert_draws_like_the_reference(params, draws=60)


@settings(max_examples=60, deadline=None)
@given(
    params=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0.05, 2),
            "top_p": st.floats(0.01, 1),
            "top_k": st.integers(0, 80),
            "min_p": st.floats(0, 1),
            "presence_penalty": st.floats(-2, 2),
            "frequency_penalty": st.floats(-2, 2),
            "repetition_penalty": st.floats(0.2, 5),
            "logit_bias": st.dictionaries(st.integers(0, 63), st.floats(-100, 100), max_size=4),
            "seed": st.integers(0, 2**64 - 1),
        },
    ),
    logits_seed=st.integers(0, 1000),
)
def test_any_mix_of_parameters_does_what_the_reference_does(
    params: dict[str, Any], logits_seed: int
) -> None:
    if SamplingParams(1, **params).greedy:
        params["top_k"] = 0
    assert_draws_like_the_reference(params, draws=6, logits_seed=logits_seed)


@pytest.mark.parametrize("params", [{"top_p": 0.95}, {"top_k": 40, "top_p": 0.8}, {"min_p": 0.2}])
def test_a_vocabulary_of_qwen_s_size(params: dict[str, Any]) -> None:
    assert_draws_like_the_reference(params, vocab_size=QWEN_VOCAB_SIZE, draws=3)


@settings(max_examples=60, deadline=None)
@given(
    params=st.fixed_dictionaries(
        {"seed": st.integers(0, 1000)},
        optional={
            "temperature": st.floats(0.3, 2),
            # No share of equals: rounding would decide whether it reaches them.
            "top_p": st.sampled_from([0.0131719, 0.3141592, 0.6180339, 0.9371173]),
            "top_k": st.integers(2, 80),
            "min_p": st.sampled_from([0.01, 0.1, 0.3]),
        },
    ),
    vocab_size=st.sampled_from([64, 700, 10_000]),
)
def test_of_equally_likely_tokens_the_first_ones_stay(
    params: dict[str, Any], vocab_size: int
) -> None:
    """Whole numbers as logits: a draw from another choice among equals would show."""
    sampled, reference = sampler(params, vocab_size=vocab_size), Reference(params)
    random = np.random.Generator(np.random.PCG64(params["seed"]))
    for step in range(4):
        logits = np.round(logits_of(step, vocab_size, spread=2.0))
        expected, margin = reference.draw(logits, random.random())
        assert sampled.sample(logits) == expected or margin < 1e-5


def test_an_enormous_top_p_and_a_tiny_min_p_leave_out_next_to_nothing() -> None:
    """A bound computed from them must not cut off what they let in."""
    for params in ({"top_p": 1 - 1e-15}, {"min_p": 1e-30}, {"min_p": 5e-324}):
        assert_draws_like_the_reference({**params, "temperature": 2.0}, vocab_size=5000, draws=40)


@pytest.mark.parametrize("wish", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}])
def test_greedy_takes_the_likeliest_and_of_equals_the_first(wish: dict[str, Any]) -> None:
    greedy = sampler(wish)
    for seed in range(20):
        logits = logits_of(seed, 64)
        assert greedy.sample(logits) == int(np.argmax(logits))
    tie = np.zeros(64, dtype=np.float32)
    tie[[9, 30, 31]] = 4
    assert greedy.sample(tie) == 9


def test_greedy_looks_at_the_logits_after_bias_and_penalties() -> None:
    logits = np.zeros(64, dtype=np.float32)
    logits[[3, 4, 5]] = [5, 4, 3]
    greedy = sampler({"temperature": 0, "presence_penalty": 1.5, "logit_bias": {5: 1.6}})
    # 5, 4 and 4.6 at first; 1.5 less for each that was said.
    assert [greedy.sample(logits) for _ in range(3)] == [3, 5, 4]


def test_the_prompt_counts_for_repetition_and_not_for_presence() -> None:
    logits = np.zeros(64, dtype=np.float32)
    logits[[3, 4]] = [2.0, 1.9]
    assert sampler({"temperature": 0, "repetition_penalty": 1.5}, [3]).sample(logits) == 4
    assert sampler({"temperature": 0, "presence_penalty": 1.5}, [3]).sample(logits) == 3


def test_a_penalty_makes_negative_logits_smaller_too() -> None:
    logits = np.full(64, -9, dtype=np.float32)
    logits[[3, 4]] = [-1.0, -1.2]
    assert sampler({"temperature": 0, "repetition_penalty": 1.5}, [3]).sample(logits) == 4


@pytest.mark.parametrize("token_id", [64, 10**9, -1, -64])
def test_a_bias_outside_the_vocabulary_changes_nothing(token_id: int) -> None:
    plain, biased = sampler({"seed": 4}), sampler({"seed": 4, "logit_bias": {token_id: 100.0}})
    for seed in range(20):
        logits = logits_of(seed, 64)
        assert plain.sample(logits) == biased.sample(logits)


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    def drawn(seed: int | None) -> list[int]:
        one = sampler({"seed": seed, "temperature": 1.5})
        return [one.sample(logits_of(step, 64)) for step in range(40)]

    assert drawn(7) == drawn(7)
    assert drawn(-7) == drawn(-7)
    many = [drawn(seed) for seed in (7, 8, -7, 0, 2**63, -(2**63) + 1, None, None)]
    assert len({tuple(ids) for ids in many}) == len(many)


def test_a_seed_mostly_answers_the_same_whatever_the_rounding() -> None:
    """A cached prompt is computed in other chunks, so its logits differ in their last bits.

    The draw within top_p went by weight, an order that near ties change: 49 of these differed.
    What is left are numbers that fall on a border between two tokens.
    """
    random = np.random.default_rng(0)
    differing = 0
    for seed in range(400):
        logits = logits_of(seed, 2000, spread=2.0)
        noisy = logits + random.normal(0, 1e-3, len(logits)).astype(np.float32)
        one, two = (sampler({"seed": seed, "top_p": 0.95}, vocab_size=2000) for _ in range(2))
        differing += one.sample(logits) != two.sample(noisy)
    assert differing <= 15


@pytest.mark.parametrize("top_p", [0.51, 0.6, 0.9])
def test_a_nucleus_that_reaches_into_a_long_flat_tail(top_p: float) -> None:
    """Half of the probability lies on one token, half on 999 unlikely ones."""
    logits = np.log(np.linspace(0.00105, 0.00095, 1000, dtype=np.float32))
    logits[500] = 0
    params = {"seed": 5, "top_p": top_p}
    sampled, random = sampler(params, vocab_size=1000), np.random.Generator(np.random.PCG64(5))
    reference = Reference(params)
    for _ in range(60):
        expected, margin = reference.draw(logits, random.random())
        assert sampled.sample(logits) == expected or margin < 1e-5


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over 20,000 draws: 30 degrees of freedom, 60 is passed once in a thousand runs;
    the seed is fixed, so it is passed always or never."""
    params = {"temperature": 0.8, "top_k": 31, "top_p": 0.99}
    logits = logits_of(3, 64, spread=1.5)
    expected = Reference(params).probabilities(logits) * 20_000
    drawing = sampler({**params, "seed": 1})
    counts = np.bincount([drawing.sample(logits) for _ in range(20_000)], minlength=64)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    deviation = (counts[possible] - expected[possible]) ** 2 / expected[possible]
    assert deviation.sum() < 60


@pytest.mark.parametrize("params", [{}, {"top_p": 0.999}, {"min_p": 1e-4}], ids=str)
def test_draws_from_several_blocks_follow_the_probabilities(params: dict[str, Any]) -> None:
    """Chi-square as above, over groups of 50 tokens each: 19 degrees of freedom."""
    logits = logits_of(4, 1000, spread=1.0)
    expected = Reference(params).probabilities(logits).reshape(20, 50).sum(axis=1) * 20_000
    drawing = sampler({**params, "seed": 1}, vocab_size=1000)
    drawn = np.array([drawing.sample(logits) for _ in range(20_000)])
    counts = np.bincount(drawn // 50, minlength=20)
    assert ((counts - expected) ** 2 / expected).sum() < 44


def test_equal_logits_are_drawn_equally() -> None:
    drawing = sampler({"seed": 2})
    counts = np.bincount([drawing.sample(np.zeros(64, np.float32)) for _ in range(12_800)])
    assert len(counts) == 64
    assert 140 < counts.min() <= counts.max() < 260


@pytest.mark.parametrize(
    ("params", "num_possible"), [({"top_k": 5}, 5), ({"top_p": 0.25}, 16), ({"min_p": 1.0}, 64)]
)
def test_among_equals_as_many_remain_as_were_asked_for(
    params: dict[str, Any], num_possible: int
) -> None:
    drawing = sampler({"seed": 3, **params})
    drawn = {drawing.sample(np.ones(64, np.float32)) for _ in range(2000)}
    assert len(drawn) == num_possible


def test_the_nucleus_holds_at_least_one_token() -> None:
    logits = logits_of(1, 64)
    drawing = sampler({"seed": 3, "top_p": 1e-9})
    assert {drawing.sample(logits) for _ in range(50)} == {int(logits.argmax())}


def test_extreme_logits_neither_overflow_nor_warn() -> None:
    logits = np.full(64, -1e30, dtype=np.float32)
    logits[[10, 20]] = 1e30
    drawing = sampler({"seed": 3, "temperature": 0.01, "top_k": 50, "top_p": 0.9})
    assert {drawing.sample(logits) for _ in range(50)} == {10, 20}


def test_a_token_that_is_ruled_out_is_never_drawn() -> None:
    logits = np.zeros(64, dtype=np.float32)
    logits[1:] = -np.inf
    drawing = sampler({"seed": 3, "temperature": 2.0, "top_p": 0.5})
    assert {drawing.sample(logits) for _ in range(50)} == {0}


def test_at_the_end_of_a_block_nothing_is_drawn_that_is_ruled_out() -> None:
    """Numbers next to 1, where a block's sum and its cumulated weights differ in the last digit."""

    class Highest:
        def random(self) -> float:
            return 1 - 2**-53

    for params in ({}, {"top_p": 0.99}, {"min_p": 0.01}, {"top_k": 500}):
        drawing = sampler({**params, "seed": 1}, vocab_size=1000)
        drawing._random = Highest()  # type: ignore[assignment]
        for seed in range(100):
            logits = logits_of(seed, 1000)
            logits[200:] = -np.inf
            assert drawing.sample(logits) < 200, params


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}])
def test_logits_that_are_not_numbers_choose_nothing(params: dict[str, Any]) -> None:
    logits = logits_of(1, 64)
    logits[7] = np.nan
    with pytest.raises(AssertionError):
        sampler(params).sample(logits)


def test_samplers_that_share_their_scratch_do_not_disturb_each_other() -> None:
    def drawn(scratches: Sequence[NDArray[np.float32]]) -> list[int]:
        params = [
            SamplingParams(1, seed=1, frequency_penalty=1.0),
            SamplingParams(1, seed=2, repetition_penalty=1.5, logit_bias={3: 4.0}),
        ]
        both = [Sampler(*each) for each in zip(params, ([1], [2]), scratches, strict=True)]
        return [one.sample(logits_of(step, 64)) for step in range(30) for one in both]

    shared = np.empty(64, dtype=np.float32)
    assert drawn([shared, shared]) == drawn([np.empty(64, np.float32), np.empty(64, np.float32)])


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_p": 0.9},
        {"min_p": 0.05},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},
        {"temperature": 0, "frequency_penalty": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_left_out", [None, 3000])
def test_no_memory_of_the_vocabulary_s_size_is_taken(
    params: dict[str, Any], num_left_out: int | None
) -> None:
    """A copy of the logits is 608 KB, which the system has to find anew for each token."""
    one = sampler({**params, "seed": 1}, range(100), QWEN_VOCAB_SIZE)
    logits = logits_of(1, QWEN_VOCAB_SIZE)
    logits[9000] = 22
    mask = None
    if num_left_out is not None:
        ids = np.arange(num_left_out, QWEN_VOCAB_SIZE)
        mask = allowing(ids, QWEN_VOCAB_SIZE).bits.tobytes()
    tracemalloc.start()
    try:
        one.sample(logits, None if mask is None else AllowedTokens(mask, QWEN_VOCAB_SIZE))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 300_000


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 9),
    params=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0, 1),
            "top_k": st.integers(0, 2**70),
            "min_p": st.floats(0, 1),
            "presence_penalty": st.floats(-2, 2),
            "frequency_penalty": st.floats(-2, 2),
            "repetition_penalty": st.floats(MIN_REPETITION_PENALTY, 10),
            "logit_bias": st.dictionaries(st.integers(0, 63), st.floats(-100, 100), max_size=3),
            "seed": st.integers(-(2**63), 2**64 - 1),
        },
    ),
    allowed=st.none() | st.sets(st.integers(0, 63), min_size=1, max_size=5),
)
def test_whatever_is_in_range_chooses_a_token(
    seed: int, params: dict[str, Any], allowed: set[int] | None
) -> None:
    """A logit that overflows would end the engine, for everybody; numpy's warning is an error."""
    tokens = None if allowed is None else allowing(sorted(allowed))
    one = sampler(params, prompt_ids=range(0, 64, 3))
    for spread in (0.0, 3.0, 1000.0):
        for _ in range(3):
            token_id = one.sample(logits_of(seed, 64, spread), tokens)
            assert 0 <= token_id < 64 and (allowed is None or token_id in allowed)


@settings(max_examples=100, deadline=None)
@given(
    params=st.fixed_dictionaries(
        {"seed": st.integers(0, 1000)},
        optional={
            "temperature": st.sampled_from([0, 0.3, 0.7, 2]),
            "top_p": st.floats(0.01, 1),
            "top_k": st.integers(0, 5000),
            "min_p": st.floats(0, 1),
        },
    ),
    vocab_size=st.sampled_from([64, 1001, 24_577, 49_300]),
    share=st.sampled_from([0.001, 0.1, 0.5, 0.98, 1.0]),
    levels=st.sampled_from([None, 4]),
)
def test_those_allowed_are_chosen_from_as_if_there_were_no_others(
    params: dict[str, Any], vocab_size: int, share: float, levels: int | None
) -> None:
    """The very tokens that a vocabulary of those allowed gives, ties and all."""
    random = np.random.default_rng(params["seed"])
    ids = np.union1d(np.flatnonzero(random.random(vocab_size) < share), vocab_size // 2)
    allowed = allowing(ids, vocab_size)
    one, alone = sampler(params, (), vocab_size), sampler(params, (), len(ids))
    for step in range(3):
        logits = logits_of(step, vocab_size)
        if levels is not None:
            logits = random.integers(0, levels, vocab_size).astype(np.float32)
        before = logits.copy()
        assert one.sample(logits, allowed) == ids[alone.sample(logits[ids])]
        assert np.array_equal(logits, before), "the runner's logits were written to"


@settings(max_examples=60, deadline=None)
@given(
    params=st.fixed_dictionaries(
        {"seed": st.integers(0, 1000)},
        optional={
            "temperature": st.floats(0.05, 2),
            "top_p": st.floats(0.01, 1),
            "top_k": st.integers(2, 80),
            "min_p": st.floats(0, 1),
            "frequency_penalty": st.floats(-2, 2),
            "repetition_penalty": st.floats(0.2, 5),
            "logit_bias": st.dictionaries(st.integers(0, 63), st.floats(-100, 100), max_size=4),
        },
    ),
    allowed=st.sets(st.integers(0, 63), min_size=1),
)
def test_under_a_rule_any_mix_of_parameters_does_what_the_reference_does(
    params: dict[str, Any], allowed: set[int]
) -> None:
    if SamplingParams(1, **params).greedy:
        params["top_p"] = 1.0
    assert_draws_like_the_reference(params, draws=6, allowed=allowed)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_k": 20}, {"top_k": 64}], ids=str)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_allowed_is_not_drawn_whatever_the_logits(
    params: dict[str, Any], value: float
) -> None:
    logits = logits_of(1, 64)
    logits[10:] = value
    for ids in (range(10, 60), [63], range(5, 64)):
        assert sampler(params).sample(logits, allowing(ids)) in ids
