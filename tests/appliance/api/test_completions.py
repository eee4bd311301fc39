"""`POST /v1/completions`: texts and token ids that go on as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.server import COMPLETIONS, Served, events, raw_request, wait_until
from tests.tiny_model import IM_START


@pytest.fixture(autouse=True)
def _answer_behind_a_colon(served: Served) -> None:
    served.answer("hello", behind=b":")


def texts(chunks: list[Any]) -> list[str]:
    return [choice["text"] for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.parametrize("text", ["hello", "", "你好\n世界", "👩‍👩‍👧‍👦 ok"])
def test_whole_answer_and_stream_are_the_same_text(served: Served, text: str) -> None:
    served.answer(text, behind=b":")
    whole = served.complete("say:").json()["choices"][0]
    response = served.complete("say:", stream=True)
    chunks = events(response)
    assert whole["text"] == "".join(texts(chunks)) == text
    assert whole["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert b"\xef\xbf\xbd" not in response.content


def test_the_whole_answers_shape(served: Served) -> None:
    answer = served.complete("say:").json()
    assert re.fullmatch(r"cmpl-\w{32}", answer.pop("id"))
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "text_completion",
        "model": "tiny",
        "system_fingerprint": served.service.system_fingerprint,
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 5,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_every_chunks_shape(served: Served) -> None:
    chunks = events(served.complete("say:", stream=True, max_tokens=3))
    assert len({(c.pop("id"), c.pop("created"), c.pop("system_fingerprint")) for c in chunks}) == 1

    def expected(text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {"object": "text_completion", "model": "tiny", "choices": [choice]}

    assert chunks == [expected("h"), expected("e"), expected("l", "length")]


def test_usage_comes_last_and_alone_when_asked_for(served: Served) -> None:
    options = {"include_usage": True}
    *chunks, last = events(served.complete(["a:", "b:"], stream=True, stream_options=options))
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 10,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_no_chat_template_is_applied(served: Served) -> None:
    served.complete("<|im_start|>x:", max_tokens=1)
    ((chunk,),) = served.runner.passes
    assert chunk.token_ids == (IM_START, *b"x:")


def test_token_ids_are_taken_as_they_are(served: Served) -> None:
    assert served.complete(list(b"say:")).json()["choices"][0]["text"] == "hello"
    ((chunk,), *_) = served.runner.passes
    assert chunk.token_ids == tuple(b"say:")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompts", [["a:", "bb:"], [[97, 58], [98, 98, 58]], ["a:", [98, 98, 58]]])
def test_a_list_of_prompts_has_an_answer_each(
    served: Served, prompts: list[Any], stream: bool
) -> None:
    def name_the_prompt(token_ids: Any) -> int:
        said = len(token_ids) - list(token_ids).index(ord(":")) - 1
        return int((*token_ids[:1], ord("!"), 257)[said])

    served.runner.next_token = name_the_prompt
    response = served.complete(prompts, stream=stream)
    if stream:
        choices = [choice for chunk in events(response) for choice in chunk["choices"]]
    else:
        choices = response.json()["choices"]
        assert response.json()["usage"]["prompt_tokens"] == 5
    for index, text in enumerate(["a!", "b!"]):
        mine = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in mine) == text
        assert [choice["finish_reason"] for choice in mine][-1] == "stop"


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([1, "a"], "mixes"),
        (["a", 1], "mixes"),
        ([1, [2]], "mixes"),
        ([], "empty"),
        ("", "empty"),
        ([[]], "empty"),
        (["a", ""], "empty"),
        ([300], "token id 300"),
        ([[1], [300]], "token id 300"),
        ([-1], ">= 0"),
        ([1.5], "Expected"),
        (5, "Expected"),
        (None, "Expected"),
        ({"text": "a"}, "Expected"),
        ([["a"]], "Expected"),
    ],
)
def test_a_prompt_that_is_none(served: Served, prompt: Any, says: str) -> None:
    response = served.complete(prompt)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "invalid_value")
    assert says in error["message"]
    served.check_no_leak()  # no prompt of the list is left behind
    assert served.complete("say:").json()["choices"][0]["text"] == "hello"


def test_stop_max_tokens_and_cached_tokens(served: Served) -> None:
    answer = served.complete("say:", stop="l").json()
    assert answer["choices"][0]["text"] == "he"
    answer = served.complete("say:", max_tokens=2).json()
    assert answer["choices"][0] == {
        "index": 0,
        "text": "he",
        "logprobs": None,
        "finish_reason": "length",
    }
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


def test_an_error_before_the_first_token_has_a_status(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        response = served.complete("say:", stream=True)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_dead"


def test_an_error_behind_the_first_token_is_an_event(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=5)) as served:
        served.answer("hello", behind=b":")
        *chunks, last = events(served.complete("say:", stream=True))
        assert "".join(texts(chunks)) == "hel"
        assert last["error"]["code"] == "engine_dead"


def test_a_queue_that_fills_up_within_the_list_takes_none_of_it(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(max_waiting=1))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.answer_forever(behind=b":")
        with raw_request(served.address, COMPLETIONS, {"model": "tiny", "prompt": "x:"}):
            wait_until(lambda: served.num_open == 1)
            response = served.complete(["a:", "b:"])
            assert response.status_code == 429
            wait_until(lambda: served.num_open == 1)
        served.check_no_leak()
        assert served.complete(["a:", "b:"], max_tokens=1).status_code == 200


def test_a_list_that_can_never_fit_is_refused_for_good(tiny_model_dir: Path) -> None:
    """429 would send a client back again and again."""
    config = Config(engine=EngineConfig(max_waiting=1))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        response = served.complete(["a:", "b:", "c:"])
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "prompt")
        assert "3 answers" in error["message"] and "takes 2" in error["message"]
        response = served.complete("a:", n=3)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
