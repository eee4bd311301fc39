"""`POST /v1/tokenize` and `/v1/detokenize`: what the model is really given, and back."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server import CHAT, Served, chat_body
from tests.tiny_model import IM_END, IM_START, PROMPT_END, VOCAB_SIZE


def tokenize(served: Served, **fields: Any) -> httpx.Response:
    return served.client.post("/v1/tokenize", json={"model": "tiny", **fields})


def detokenize(served: Served, tokens: Any) -> httpx.Response:
    return served.client.post("/v1/detokenize", json={"model": "tiny", "tokens": tokens})


@pytest.mark.parametrize("text", ["hello", "", "你好 👩‍👩‍👧‍👦", "<|im_start|>x"])
def test_a_text_and_back(served: Served, text: str) -> None:
    answer = tokenize(served, prompt=text).json()
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == served.runner.limits.max_model_len
    assert answer["token_strs"] is None
    assert detokenize(served, answer["tokens"]).json() == {"prompt": text}


def test_a_conversation_is_the_prompt_that_the_model_gets(served: Served) -> None:
    body = chat_body("你好", max_tokens=1)
    answer = tokenize(served, messages=body["messages"]).json()
    assert answer["tokens"] == [
        *(IM_START, *b"user\n", *"你好".encode(), IM_END, *b"\n"),
        *PROMPT_END,
    ]
    assert served.client.post(CHAT, json=body).json()["usage"]["prompt_tokens"] == answer["count"]
    assert [i for step in served.runner.passes for c in step for i in c.token_ids] == (
        answer["tokens"]
    )


def test_the_tokens_as_texts(served: Served) -> None:
    answer = tokenize(served, prompt="a你<|im_end|>", return_token_strs=True).json()
    assert answer["token_strs"] == ["a", "\\xe4", "\\xbd", "\\xa0", "<|im_end|>"]


def test_the_model_may_be_left_out(served: Served) -> None:
    for path, body in (("tokenize", {"prompt": "a"}), ("detokenize", {"tokens": [97]})):
        assert served.client.post(f"/v1/{path}", json=body).status_code == 200
        body = {**body, "model": "gpt-9"}
        assert served.client.post(f"/v1/{path}", json=body).status_code == 404


def test_nothing_is_computed(served: Served) -> None:
    tokenize(served, prompt="hello")
    detokenize(served, [1, 2])
    assert not served.runner.passes


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ],
)
def test_what_cannot_be_tokenized(served: Served, fields: dict[str, Any], param: str) -> None:
    response = tokenize(served, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("tokens", [[-1], [VOCAB_SIZE], ["a"], "abc", None, [1.5], [10**30]])
def test_what_are_no_tokens(served: Served, tokens: Any) -> None:
    response = detokenize(served, tokens)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")


def test_bytes_that_are_no_text_and_ids_that_stand_for_none(served: Served) -> None:
    assert detokenize(served, [97, 0xE4, 98, VOCAB_SIZE - 1]).json() == {"prompt": "a\ufffdb"}


def test_a_long_text_does_not_hold_up_the_others(served: Served) -> None:
    text = "word " * 200_000
    response = served.client.post("/v1/tokenize", content=json.dumps({"prompt": text}))
    assert response.json()["count"] == len(text)


def test_tools_are_part_of_the_prompt(served: Served) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    messages = chat_body("hi")["messages"]
    plain = tokenize(served, messages=messages).json()["count"]
    shown = tokenize(served, messages=messages, tools=[tool]).json()["count"]
    used = served.chat("hi", tools=[tool], max_tokens=1).json()["usage"]["prompt_tokens"]
    assert shown == used > plain
