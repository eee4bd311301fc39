"""OpenAI's official Python client against the service: nothing set but base URL and any key."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.served_process import ServedProcess
from tests.server import CHAT, Served, chat_body, raw_request, wait_until

Message = dict[str, str]


def client_of(url: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="any", timeout=60, **options)


@pytest.fixture(scope="module")
def served(model_dir: Path) -> Iterator[ServedProcess]:
    with ServedProcess(model_dir) as served:
        yield served


@pytest.fixture
def client(served: ServedProcess) -> Iterator[OpenAI]:
    with client_of(served.url, max_retries=0) as client:
        yield client


def forget(client: OpenAI) -> None:
    """Have no row of the KV cache hold the last conversations, only the copies that are kept.

    A prefix computed, left in its row or filled in from a copy: the logits differ in their last
    bits, and now and then a token does. Who compares answers starts both from the same state.
    """
    model = client.models.list().data[0].id
    for animal in ("Zebra", "Yak", "Lynx"):
        client.completions.create(model=model, prompt=animal, max_tokens=1)


def user(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def ask(client: OpenAI, messages: list[Message], **fields: Any) -> Any:
    model = client.models.list().data[0].id
    fields = {"temperature": 0, "max_tokens": 60, **fields}
    return client.chat.completions.create(model=model, messages=messages, **fields)  # type: ignore[call-overload]


@pytest.mark.model
def test_two_and_two(client: OpenAI) -> None:
    answer = ask(client, user("What is 2+2?"))
    assert "4" in answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.model
def test_a_stream_says_the_same(client: OpenAI) -> None:
    ask(client, user("What is 2+2?"))
    forget(client)
    whole = ask(client, user("What is 2+2?"))
    forget(client)
    chunks = list(
        ask(client, user("What is 2+2?"), stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.model
def test_the_clients_own_stream_helper(client: OpenAI, served: ServedProcess) -> None:
    """It checks the chunks as it puts them together."""
    messages: Any = user("What is 2+2?")
    with client.chat.completions.stream(
        model=served.model, messages=messages, temperature=0, max_tokens=60
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text
    assert "4" in text


@pytest.mark.model
def test_the_asynchronous_client(served: ServedProcess) -> None:
    async def run() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            fields: Any = {
                "model": served.model,
                "messages": user("What is 2+2?"),
                "temperature": 0,
                "max_tokens": 60,
            }
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**fields),
                client.chat.completions.create(**fields, stream=True),
            )
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            return whole.choices[0].message.content or "", text

    whole, streamed = asyncio.run(run())
    assert "4" in whole
    assert "4" in streamed


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
def test_text_completions(client: OpenAI, served: ServedProcess, stream: bool) -> None:
    fields: Any = {
        "model": served.model,
        "prompt": "1, 2, 3, 4, 5, 6,",
        "max_tokens": 8,
        "temperature": 0,
        "stream": stream,
    }
    answer: Any = client.completions.create(**fields)
    text = "".join(c.choices[0].text for c in answer) if stream else answer.choices[0].text
    assert text.startswith(" 7, 8")


@pytest.mark.model
def test_models(client: OpenAI, served: ServedProcess) -> None:
    (model,) = client.models.list()
    assert model.id == served.model
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


@pytest.mark.model
def test_the_clients_error_classes(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user("hi"), temperature=5)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user("word " * 10000), stream=True)
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert not_found.value.code == "model_not_found"


@pytest.mark.model
def test_the_same_seed_gives_the_same_answer(client: OpenAI) -> None:
    def tell(seed: int) -> str:
        forget(client)
        answer = ask(client, user("Tell me a story."), temperature=1, seed=seed, max_tokens=30)
        return str(answer.choices[0].message.content)

    tell(0)  # from now on the prompt is known
    assert tell(7) == tell(7)
    assert len({tell(seed) for seed in range(4)}) > 1


@pytest.mark.model
def test_a_second_turn_knows_the_first(client: OpenAI) -> None:
    messages = user("What is the color of the sky on a clear day?")
    first = ask(client, messages)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        *user("And of grass?"),
    ]
    second = ask(client, messages)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached > first.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens


@pytest.mark.model
def test_a_chinese_chat_over_several_turns(client: OpenAI) -> None:
    messages: list[Message] = []
    cached = []
    for question in ("你好！", "请用中文说一句话。😀", "谢谢👩‍👩‍👧‍👦"):
        messages += user(question)
        chunks = list(ask(client, messages, stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text and "\ufffd" not in text
        messages.append({"role": "assistant", "content": text})
        cached.append(chunks[-1].usage.prompt_tokens_details.cached_tokens)
    assert cached == sorted(cached) and cached[0] < cached[1] < cached[2]


@pytest.mark.model
def test_what_the_model_is_told_to_repeat_comes_out_whole(client: OpenAI) -> None:
    """A small model repeats what it reads often enough; no character of it may break."""
    line = "你好世界 👩‍👩‍👧‍👦 🏳️‍🌈\n"
    stream = client.completions.create(
        model=client.models.list().data[0].id,
        prompt=line * 12,
        max_tokens=60,
        temperature=0,
        stream=True,
    )
    text = "".join(chunk.choices[0].text for chunk in stream)
    assert line in text
    assert "\ufffd" not in text


def full_server(tiny_model_dir: Path) -> Served:
    """A server with one seat and no queue."""
    served = Served(
        tiny_model_dir, FakeRunner(max_slots=1), Config(engine=EngineConfig(max_waiting=0))
    )
    served.answer("hello")
    return served


def test_a_full_queue_is_a_rate_limit_error(tiny_model_dir: Path) -> None:
    with full_server(tiny_model_dir) as served, client_of(served.url, max_retries=0) as client:
        served.runner.gate.clear()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
            with pytest.raises(openai.RateLimitError) as caught:
                ask(client, user("hi"))
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "2"


def test_the_client_tries_a_full_queue_again_by_itself(tiny_model_dir: Path) -> None:
    with full_server(tiny_model_dir) as served, client_of(served.url, max_retries=1) as client:
        served.runner.gate.clear()
        started = time.monotonic()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
            # Before the 2 s are over, and late enough for the first try to find the queue full.
            threading.Timer(1.5, served.runner.gate.set).start()
            answer = ask(client, user("hi"))
        assert answer.choices[0].message.content == "hello"
        assert time.monotonic() - started > 1.9  # it kept to Retry-After
