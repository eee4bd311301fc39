"""`POST /v1/chat/completions`: what is answered, whole and as a stream."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config, EngineConfig, GenerationConfig
from tests import tiny_model
from tests.fakes import FakeRunner
from tests.server import CHAT, Served, chat_body, events, wait_until

TEXTS = [
    "hello",
    "",
    "two\n\nparagraphs\tand \"quotes\" \\ {'data: [DONE]'}\r\n",
    "你好，世界！人工智能是什么？",
    "👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 👍🏽 🇨🇳",
    "e\u0301 \u200d \ufeff \u2028 \u0000 \x7f",
]


def texts(chunks: list[Any]) -> list[str]:
    """The texts of a stream's chunks that have one."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return [delta["content"] for delta in deltas if "content" in delta]


@pytest.mark.parametrize("text", TEXTS)
def test_whole_answer_and_stream_are_the_same_text(served: Served, text: str) -> None:
    served.answer(text)
    whole = served.chat().json()["choices"][0]
    chunks = events(served.chat(stream=True))
    assert whole["message"]["content"] == text
    assert "".join(texts(chunks)) == text
    assert whole["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("text", TEXTS[3:])
def test_no_chunk_ever_holds_a_part_of_a_character(served: Served, text: str) -> None:
    """Each token is one byte here, so every character of these is split over several.

    A step that verifies drafts gives several tokens, so a piece may have several characters."""
    served.answer(text)
    response = served.chat(stream=True)
    assert b"\xef\xbf\xbd" not in response.content
    pieces = texts(events(response))
    assert all(pieces) and len(pieces) > 2
    assert "".join(pieces).encode() == text.encode()


def test_the_whole_answers_shape(served: Served) -> None:
    before = int(time.time())
    answer = served.chat().json()
    assert re.fullmatch(r"chatcmpl-\w{32}", answer.pop("id"))
    assert before <= answer.pop("created") <= time.time()
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "system_fingerprint": served.service.system_fingerprint,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": len(tiny_model.PROMPT_END) + len("\x01user\nhi\x01\n"),
            "completion_tokens": 5,
            "total_tokens": len(tiny_model.PROMPT_END) + 10 + 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_every_chunks_shape(served: Served) -> None:
    chunks = events(served.chat(stream=True))
    (shared,) = {
        (chunk.pop("id"), chunk.pop("created"), chunk.pop("system_fingerprint")) for chunk in chunks
    }
    assert re.fullmatch(r"chatcmpl-\w{32}", shared[0])

    def expected(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {"object": "chat.completion.chunk", "model": "tiny", "choices": [choice]}

    assert chunks == [
        expected({"role": "assistant", "content": "h"}),
        expected({"content": "e"}),
        expected({"content": "l"}),
        expected({"content": "l"}),
        expected({"content": "o"}),
        expected({}, "stop"),
    ]


def test_two_answers_have_two_ids(served: Served) -> None:
    assert served.chat().json()["id"] != served.chat().json()["id"]


def test_an_empty_answer_still_brings_the_role(served: Served) -> None:
    served.answer("")
    first, last = events(served.chat(stream=True))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_usage_comes_last_and_alone_when_asked_for(served: Served) -> None:
    *chunks, last = events(served.chat(stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 5
    assert last["id"] == chunks[0]["id"]


@pytest.mark.parametrize("options", [{}, {"stream_options": {}}, {"stream_options": None}])
def test_no_usage_when_not_asked_for(served: Served, options: dict[str, Any]) -> None:
    chunks = events(served.chat(stream=True, **options))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_cached_tokens_are_counted(served: Served) -> None:
    first = served.chat("tell me").json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    again = served.chat("tell me").json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == again["prompt_tokens"] - 1
    (_, *_, last) = events(
        served.chat("tell you", stream=True, stream_options={"include_usage": True})
    )
    shared = len("\x01user\ntell ")
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == shared


def test_the_second_turn_computes_only_what_is_new(served: Served) -> None:
    messages = [{"role": "user", "content": "hi"}]
    first = served.client.post(CHAT, json={"model": "tiny", "messages": messages}).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "more"}]
    second = served.client.post(CHAT, json={"model": "tiny", "messages": messages}).json()
    known = first["usage"]["total_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == known


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("lo", "hel"), (["zz", "ell"], "h"), ("hello", ""), ("x", "hello"), ("lol", "hello")],
)
def test_stop_strings(served: Served, stream: bool, stop: Any, text: str) -> None:
    response = served.chat(stop=stop, stream=stream)
    if stream:
        chunks = events(response)
        assert "".join(texts(chunks)) == text
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        (choice,) = response.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")


def test_a_stop_string_ends_the_computing_too(served: Served) -> None:
    served.answer_forever("x")
    assert served.chat(stop="xxx").json()["choices"][0]["message"]["content"] == ""
    served.check_no_leak()
    assert len(served.runner.passes) < 20


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_end_the_answer(served: Served, name: str) -> None:
    answer = served.chat(**{name: 3}).json()
    assert answer["choices"][0]["message"]["content"] == "hel"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    chunks = events(served.chat(stream=True, **{name: 3}))
    assert texts(chunks) == ["h", "e", "l"]
    assert chunks[-1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "length",
    }


def test_the_newer_name_wins(served: Served) -> None:
    answer = served.chat(max_tokens=1, max_completion_tokens=4).json()
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 5])
def test_a_character_cut_by_the_limit_is_left_out(served: Served, max_tokens: int) -> None:
    """The model wrote no U+FFFD; the bytes stand in the log-probabilities."""
    served.answer("a你b")
    expected = "a你b".encode()[:max_tokens].decode("utf-8", "ignore")
    choice = served.chat(max_tokens=max_tokens, logprobs=True).json()["choices"][0]
    assert choice["message"]["content"] == expected
    assert "".join(texts(events(served.chat(max_tokens=max_tokens, stream=True)))) == expected
    written = [byte for token in choice["logprobs"]["content"] for byte in token["bytes"]]
    assert bytes(written) == "a你b".encode()[:max_tokens]


def test_the_answer_ends_with_the_context(served: Served) -> None:
    served.answer_forever()
    answer = served.chat(max_tokens=4000).json()
    assert answer["usage"]["total_tokens"] == served.runner.limits.max_model_len
    assert answer["choices"][0]["finish_reason"] == "length"


def test_defaults_come_from_the_configuration(tiny_model_dir: Path) -> None:
    config = Config(generation=GenerationConfig(default_max_tokens=4, max_tokens_ceiling=6))
    with Served(tiny_model_dir, config=config) as served:
        served.answer_forever()
        assert served.chat().json()["usage"]["completion_tokens"] == 4
        assert served.chat(max_tokens=6).json()["usage"]["completion_tokens"] == 6
        response = served.chat(max_tokens=7)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "max_tokens"


def test_stop_token_ids_and_ignore_eos(served: Served) -> None:
    answer = served.chat(stop_token_ids=[ord("l")]).json()
    assert answer["choices"][0]["message"]["content"] == "he"
    answer = served.chat(ignore_eos=True, max_tokens=9).json()
    assert answer["choices"][0]["message"]["content"] == "hello"  # special tokens have no text
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 9


def test_logit_bias_reaches_the_sampler(served: Served) -> None:
    answer = served.chat(logit_bias={str(ord("z")): 100}, max_tokens=2).json()
    assert answer["choices"][0]["message"]["content"] == "zz"


def prompt_of(served: Served, messages: list[Any]) -> str:
    """The text that the model was given for `messages`, special tokens as \\x01."""
    served.reset()
    response = served.client.post(
        CHAT, json={"model": "tiny", "messages": messages, "max_tokens": 1}
    )
    assert response.status_code == 200, response.text
    ids = [i for chunks in served.runner.passes for chunk in chunks for i in chunk.token_ids]
    return bytes(i if i < 256 else 1 for i in ids).decode()


ASSISTANT = "\x01assistant\n"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": "你好"}, "\x01user\n你好\x01\n"),
        ({"role": "user", "content": ""}, "\x01user\n\x01\n"),
        ({"role": "user", "content": []}, "\x01user\n\x01\n"),
        ({"role": "developer", "content": "be kind"}, "\x01system\nbe kind\x01\n"),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            "\x01user\nab\x01\n",
        ),
        ({"role": "tool", "content": "4", "tool_call_id": "call_1"}, "\x01tool\n4\x01\n"),
    ],
)
def test_messages_become_the_prompt(served: Served, message: Any, text: str) -> None:
    assert prompt_of(served, [message]) == text + ASSISTANT


@pytest.mark.parametrize("message", [{"content": None}, {"content": ""}, {"content": []}, {}])
def test_an_assistants_message_may_be_empty(served: Served, message: Any) -> None:
    messages = [{"role": "assistant", **message}, {"role": "user", "content": "hi"}]
    said = "\x01assistant\n\x01\n\x01user\nhi\x01\n"
    assert prompt_of(served, messages) == said + ASSISTANT


def test_several_messages_keep_their_order(served: Served) -> None:
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": str(i)} for i, role in enumerate(roles)]
    told = "".join(f"\x01{role}\n{i}\x01\n" for i, role in enumerate(roles))
    assert prompt_of(served, messages) == told + ASSISTANT


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "text"},
    ],
)
def test_what_is_no_text_is_refused(served: Served, part: dict[str, Any]) -> None:
    response = served.chat([{"type": "text", "text": "what is this?"}, part])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("messages", "invalid_value")
    assert "messages[0].content[1]" in error["message"]
    assert part["type"] in error["message"]


def test_the_streams_headers(served: Served) -> None:
    headers = served.chat(stream=True).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


def test_the_first_text_comes_before_the_answer_is_done(served: Served) -> None:
    served.answer_forever()
    served.runner.step_s = 0.002
    with served.client.stream("POST", CHAT, json=chat_body(stream=True)) as response:
        first = next(response.iter_bytes())
        assert served.num_open == 1
    assert b'"role":"assistant","content":"x"' in first


def test_an_error_before_the_first_token_has_a_status(tiny_model_dir: Path) -> None:
    """The stream's status waits for the first token, so that 200 means there is one."""
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        response = served.chat(stream=True)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_dead"


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_behind_the_first_token(tiny_model_dir: Path, stream: bool) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=5)) as served:
        served.answer("hello")
        response = served.chat(stream=stream)
        if not stream:
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "engine_dead"
            return
        *chunks, last = events(response)
        assert "".join(texts(chunks)) == "hel"
        assert last["error"]["type"] == "server_error"
        assert last["error"]["code"] == "engine_dead"
        assert last["error"].keys() == {"message", "type", "param", "code"}


def test_a_stop_string_ends_computing_with_the_step_under_way(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(prompt_lookup=False))
    with Served(tiny_model_dir, config=config) as served:
        served.answer("hello, and so on")
        served.runner.passes.clear()
        served.chat(max_tokens=5)
        num_passes = len(served.runner.passes)
        served.reset()
        served.runner.hold_at = {num_passes}
        # The client does not wait for that step either.
        assert served.chat(stop=["lo"]).json()["choices"][0]["message"]["content"] == "hel"
        wait_until(served.runner.held.is_set)
        served.runner.release()
        served.check_no_leak()
        assert len(served.runner.passes) == num_passes + 1


def test_a_deadline_behind_the_first_token_is_an_event(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=1))
    with Served(tiny_model_dir, FakeRunner(step_s=0.05), config) as served:
        served.answer_forever()
        *chunks, last = events(served.chat(stream=True))
        assert len(chunks) > 2 and set("".join(texts(chunks))) == {"x"}
        assert last["error"]["code"] == "deadline_exceeded"
        served.check_no_leak()
        served.answer("fine")
        served.runner.step_s = 0
        assert served.chat().status_code == 200


def test_answers_that_run_side_by_side_do_not_mix(served: Served) -> None:
    def ask(character: str) -> str:
        return "".join(texts(events(served.chat(character, stream=True, max_tokens=40))))

    def repeat_the_user(token_ids: Any) -> int:
        return int(token_ids[6])  # behind <|im_start|>user\n

    served.runner.next_token = repeat_the_user
    served.runner.step_s = 0.001
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, "abcdef"))
    assert answers == [character * 40 for character in "abcdef"]
    assert max(len(chunks) for chunks in served.runner.passes) > 1


def test_bodies_of_streams_are_compact_json(served: Served) -> None:
    """One event, one line: a newline in the text must not end it."""
    served.answer("a\nb")
    content = served.chat(stream=True).content
    assert content.count(b"\n\n") == 3 + 1 + 1
    assert json.loads(content.split(b"\n\n")[1].removeprefix(b"data: "))["choices"]
