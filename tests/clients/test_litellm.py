"""LiteLLM's own functions against the service: chats, streams, tools, forms, and its errors.

On the embedded model, and where the answer must be a certain one, on one that is told what to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel

from appliance.access.key_file import make_key, write_keys
from appliance.config import Config, EngineConfig, ServerConfig
from tests import tiny_model
from tests.fakes import FakeRunner
from tests.served_process import ServedProcess
from tests.server import CHAT, Served, chat_body, raw_request, wait_until

pytestmark = [
    pytest.mark.clients,
    # What it does with its own objects.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]

QUESTION = [{"role": "user", "content": "What is 2+2?"}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


class Person(BaseModel):
    name: str
    age: int
    job: Literal["nurse", "doctor", "other"]


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """The module, which by itself fetches prices and leaves loops and connections open."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    import litellm

    litellm.suppress_debug_info = True
    with httpx.Client() as session:
        litellm.client_session = session
        yield litellm
        litellm.client_session = None
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="module")
def process(model_dir: Path) -> Iterator[ServedProcess]:
    with ServedProcess(model_dir) as process:
        yield process


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tiny_model.make(tmp_path_factory.mktemp("litellm") / "tiny")
    with Served(directory, FakeRunner(max_model_len=4096)) as served:
        yield served


@pytest.fixture
def real(process: ServedProcess) -> dict[str, Any]:
    """What a call of the embedded model has."""
    return {**at(process.url, process.model), "temperature": 0, "max_tokens": 60}


def at(url: str, model: str = "tiny", **more: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{model}",
        "api_base": f"{url}/v1",
        "api_key": "any",
        "messages": QUESTION,
        "max_retries": 0,
        **more,
    }


@pytest.mark.model
def test_a_chat(litellm: Any, real: dict[str, Any]) -> None:
    answer = litellm.completion(**real)
    assert "4" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = litellm.completion(**real)
    assert again.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens - 1


@pytest.mark.model
def test_a_stream_put_together_again(litellm: Any, real: dict[str, Any]) -> None:
    stream = litellm.completion(**real, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = litellm.stream_chunk_builder(chunks, messages=QUESTION)
    assert "4" in text and whole.choices[0].message.content == text
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.prompt_tokens > 0 and whole.usage.completion_tokens > 0


@pytest.mark.model
async def test_asynchronous_calls(litellm: Any, real: dict[str, Any]) -> None:
    async with httpx.AsyncClient() as session:
        litellm.aclient_session = session
        whole, stream = await asyncio.gather(
            litellm.acompletion(**real), litellm.acompletion(**real, stream=True)
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    litellm.aclient_session = None
    assert "4" in whole.choices[0].message.content and "4" in text


@pytest.mark.model
def test_a_class_as_the_form(litellm: Any, real: dict[str, Any]) -> None:
    real["messages"] = [{"role": "user", "content": "As JSON: Anna Schmidt, 41, is a nurse."}]
    answer = litellm.completion(**{**real, "max_tokens": 120}, response_format=Person)
    assert answer.choices[0].finish_reason == "stop"
    assert "Anna" in Person.model_validate_json(answer.choices[0].message.content).name


@pytest.mark.model
def test_extensions_go_through(litellm: Any, real: dict[str, Any]) -> None:
    real["model"] = real["model"].replace("openai/", "hosted_vllm/")
    answer = litellm.completion(**real, guided_choice=["yes", "no"])
    assert answer.choices[0].message.content in ("yes", "no")
    answer = litellm.completion(**real, extra_body={"guided_regex": "[0-9]{4}"})
    assert len(answer.choices[0].message.content) == 4


@pytest.mark.model
def test_several_answers_and_log_probabilities(litellm: Any, real: dict[str, Any]) -> None:
    answer = litellm.completion(
        **{**real, "temperature": 1, "max_tokens": 6}, n=3, seed=1, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        tokens = choice.logprobs.content
        assert len(tokens) == 6 and all(len(token.top_logprobs) >= 2 for token in tokens)


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
def test_text_completions(litellm: Any, process: ServedProcess, stream: bool) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{process.model}",
        api_base=f"{process.url}/v1",
        api_key="any",
        prompt="1, 2, 3, 4, 5, 6,",
        temperature=0,
        max_tokens=8,
        stream=stream,
    )
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text or "" for chunk in chunks).startswith(" 7, 8")


@pytest.mark.model
def test_responses(litellm: Any, process: ServedProcess) -> None:
    asked = at(process.url, process.model, input="What is 2+2?", max_output_tokens=60)
    del asked["messages"]
    answer = litellm.responses(**asked, temperature=0)
    assert answer.status == "completed" and "4" in answer.output[0].content[0].text
    events = list(litellm.responses(**asked, temperature=0, stream=True))
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
def test_call_result_answer(litellm: Any, told: Served, choice: Any) -> None:
    told.answer_by(("sunny, 31", "It is sunny."), ("", CALL))
    asked = at(told.url, tools=[TOOL])
    first = litellm.completion(**asked, tool_choice=choice)
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Rome"},
    )
    asked["messages"] = [
        *QUESTION,
        first.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 31 degrees"},
    ]
    second = litellm.completion(**asked)
    assert second.choices[0].message.content == "It is sunny."


def test_a_streamed_call_put_together_again(litellm: Any, told: Served) -> None:
    told.answer_by(("", f"I will look.\n{CALL}\n{CALL.replace('Rome', 'Paris')}"))
    chunks = list(litellm.completion(**at(told.url, tools=[TOOL], stream=True)))
    (choice,) = litellm.stream_chunk_builder(chunks, messages=QUESTION).choices
    assert choice.message.content == "I will look." and choice.finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        {"city": "Rome"},
        {"city": "Paris"},
    ]


def test_what_the_client_got_wrong(litellm: Any, tmp_path: Path, told: Served) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature is 5"):
        litellm.completion(**at(told.url, temperature=5))
    with pytest.raises(litellm.NotFoundError, match="gpt-9"):
        litellm.completion(**at(told.url, "gpt-9"))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    with pytest.raises(litellm.BadRequestError, match="image"):
        litellm.completion(**at(told.url) | {"messages": [{"role": "user", "content": [image]}]})
    long = [{"role": "user", "content": "long " * 1000}]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**at(told.url) | {"messages": long})
    key, record = make_key("ann")
    write_keys(tmp_path / "keys", [record])
    config = Config(server=ServerConfig(api_keys_file=tmp_path / "keys"))
    with Served(tiny_model.make(tmp_path / "tiny"), config=config) as keyed:
        keyed.answer("hello")
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(**at(keyed.url))
        answer = litellm.completion(**at(keyed.url) | {"api_key": key})
        assert answer.choices[0].message.content == "hello"


def test_what_the_service_cannot_do_now(litellm: Any, tiny_model_dir: Path) -> None:
    loading = FakeRunner()
    loading.gate.clear()
    with Served(tiny_model_dir, loading, wait=False) as served:
        with pytest.raises(litellm.ServiceUnavailableError):
            litellm.completion(**at(served.url))
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        served.chat()
        with pytest.raises(litellm.InternalServerError):
            litellm.completion(**at(served.url))
    impatient = Config(engine=EngineConfig(request_timeout_s=0.1))
    with Served(tiny_model_dir, FakeRunner(step_s=0.01), impatient) as served:
        served.answer_forever()
        with pytest.raises(litellm.Timeout):
            litellm.completion(**at(served.url))
        text = ""
        with pytest.raises(litellm.exceptions.MidStreamFallbackError, match="longer than"):
            for chunk in litellm.completion(**at(served.url, stream=True)):
                text += chunk.choices[0].delta.content or ""
        assert text


def test_a_full_queue_is_tried_again_when_it_said(litellm: Any, tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(max_waiting=0))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.answer("hello")
        served.runner.gate.clear()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
            with pytest.raises(litellm.RateLimitError):
                litellm.completion(**at(served.url))
            started = time.monotonic()
            threading.Timer(1.0, served.runner.gate.set).start()
            answer = litellm.completion(**at(served.url) | {"max_retries": 1})
        assert answer.choices[0].message.content == "hello"
        assert time.monotonic() - started > 1.9
