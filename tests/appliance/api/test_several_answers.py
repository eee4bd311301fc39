"""`n`: several answers to one prompt, side by side, told apart by their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.server import CHAT, Served, chat_body, events, raw_request, wait_until
from tests.tiny_model import IM_END


def by_index(chunks: list[Any]) -> dict[int, list[Any]]:
    choices: dict[int, list[Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices.setdefault(choice["index"], []).append(choice)
    return choices


def text_of(choices: list[Any]) -> str:
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_every_answer_is_whole(served: Served, n: int) -> None:
    answer = served.chat(n=n).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    for choice in answer["choices"]:
        assert choice["message"] == {"role": "assistant", "content": "hello", "refusal": None}
        assert choice["finish_reason"] == "stop"


def test_a_stream_brings_each_its_role_its_text_and_its_end(served: Served) -> None:
    chunks = events(served.chat(n=3, stream=True))
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    choices = by_index(chunks)
    assert sorted(choices) == [0, 1, 2]
    for mine in choices.values():
        assert text_of(mine) == "hello"
        assert [choice["delta"].get("role") for choice in mine] == ["assistant", *[None] * 5]
        assert [choice["finish_reason"] for choice in mine] == [*[None] * 5, "stop"]


def test_they_come_side_by_side(served: Served) -> None:
    served.runner.step_s = 0.001
    chunks = events(served.chat(n=3, stream=True, max_tokens=5))
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order), "one does not wait for the end of another"


def test_usage_counts_the_prompt_once_and_every_answer(served: Served) -> None:
    one = served.chat("one").json()["usage"]
    served.reset()
    served.answer("hello")
    three = served.chat("one", n=3).json()["usage"]
    assert three["prompt_tokens"] == one["prompt_tokens"]
    assert three["completion_tokens"] == 3 * one["completion_tokens"]
    assert three["total_tokens"] == three["prompt_tokens"] + three["completion_tokens"]
    assert three["prompt_tokens_details"]["cached_tokens"] == 0
    *_, last = events(served.chat("two", n=3, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 15


def test_seeds_make_them_differ_and_stay_the_same(served: Served) -> None:
    fields: dict[str, Any] = {"seed": 7, "temperature": 1, "max_tokens": 8}
    # All tokens are about as likely.
    served.runner.next_token = lambda token_ids: 0
    bias = {"logit_bias": {"0": -40}}

    def answers(n: int) -> list[str]:
        served.reset()
        served.runner.next_token = lambda token_ids: 0
        choices = served.chat(n=n, **fields, **bias).json()["choices"]
        return [choice["message"]["content"] for choice in choices]

    three = answers(3)
    assert len(set(three)) == 3
    assert answers(3) == three
    assert answers(1) == three[:1]


def test_a_seed_at_the_end_of_the_range(served: Served) -> None:
    assert served.chat(n=2, seed=2**64 - 1, temperature=1).status_code == 200


def test_n_answers_to_each_of_several_prompts(served: Served) -> None:
    def name_the_prompt(token_ids: Any) -> int:
        said = len(token_ids) - list(token_ids).index(ord(":")) - 1
        return int(token_ids[0]) if said == 0 else IM_END

    served.runner.next_token = name_the_prompt
    answer = served.complete(["a:", "bb:"], n=2).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a", "a", "b", "b"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 5 and answer["usage"]["completion_tokens"] == 4


def test_continuous_usage(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(served.chat(stream=True, stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [1, 2, 3, 4, 5, 5, 5]
    prompt = chunks[0]["usage"]["prompt_tokens"]
    assert prompt > 0
    assert all(
        c["usage"]["total_tokens"] == prompt + n for c, n in zip(chunks, counts, strict=True)
    )
    served.answer("hello", behind=b":")
    chunks = events(served.complete("a:", stream=True, stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 5, 5, 5]


def test_continuous_usage_alone_asks_for_nothing(served: Served) -> None:
    chunks = events(served.chat(stream=True, stream_options={"continuous_usage_stats": True}))
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_them_all(served: Served, stream: bool) -> None:
    served.answer_forever()
    served.runner.step_s = 0.002
    with raw_request(served.address, CHAT, chat_body(n=4, stream=stream, max_tokens=4000)):
        wait_until(lambda: served.num_open == 4)
    served.check_no_leak()


def test_a_queue_that_fills_up_takes_none_of_them(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(max_waiting=2))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.answer_forever()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
            assert served.chat(n=3).status_code == 429
            wait_until(lambda: served.num_open == 1)
        served.check_no_leak()
        response = served.chat(n=4)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


def test_an_error_behind_the_first_text_ends_the_stream(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=9)) as served:
        served.answer_forever()
        *_, last = events(served.chat(n=3, stream=True))
        assert last["error"]["code"] == "engine_dead"


def test_an_error_before_the_first_text_has_a_status(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        assert served.chat(n=3, stream=True).status_code == 500


def test_openais_client(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        fields: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "n": 3}
        whole = client.chat.completions.create(**fields)
        assert [choice.message.content for choice in whole.choices] == ["hello"] * 3
        with client.chat.completions.stream(**fields) as stream:
            final = stream.get_final_completion()
        assert [choice.message.content for choice in final.choices] == ["hello"] * 3
