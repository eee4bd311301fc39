"""`client.responses` of OpenAI's own client: create, stream, parse, tools, errors.

On the real model where it can show something; where the answer must be a certain one, or a call,
which the embedded model's template does not know, on one that is told what to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from appliance.config import Config, EngineConfig
from tests import tiny_model
from tests.fakes import FakeRunner
from tests.served_process import ServedProcess
from tests.server import Served

TEXT = "Anna Schmidt, 41, is a nurse in Hamburg. She speaks German and French."
CALL = (
    '<tool_call>\n{"name": "GetWeather", "arguments": {"city": "Rome", "unit": "c"}}\n</tool_call>'
)


class Address(BaseModel):
    city: str
    country: str | None


class Person(BaseModel):
    """What the client makes a strict schema of, with $defs and $ref."""

    name: str
    age: int
    address: Address


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["c", "f"]


TOOL: Any = openai.pydantic_function_tool(GetWeather)
FLAT_TOOL: Any = {"type": "function", **TOOL["function"]}


def client_of(url: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="any", timeout=60, max_retries=0, **options)


@pytest.fixture(scope="module")
def process(model_dir: Path) -> Iterator[ServedProcess]:
    with ServedProcess(model_dir) as process:
        yield process


@pytest.fixture
def real(process: ServedProcess) -> Iterator[OpenAI]:
    with client_of(process.url) as client:
        yield client


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tiny_model.make(tmp_path_factory.mktemp("told") / "tiny")
    with Served(directory, FakeRunner(max_model_len=4096)) as served:
        yield served


@pytest.fixture
def client(told: Served) -> Iterator[OpenAI]:
    with client_of(told.url) as client:
        yield client


def asked(process: ServedProcess, given: Any = "What is 2+2?", **fields: Any) -> Any:
    fields = {"temperature": 0, "max_output_tokens": 60, **fields}
    return {"model": process.model, "input": given, **fields}


@pytest.mark.model
def test_create(real: OpenAI, process: ServedProcess) -> None:
    answer = real.responses.create(**asked(process))
    assert "4" in answer.output_text
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    usage = answer.usage
    assert usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens
    again = real.responses.create(**asked(process))
    assert again.usage is not None
    assert again.usage.input_tokens_details.cached_tokens == usage.input_tokens - 1


@pytest.mark.model
def test_it_is_what_a_chat_says(real: OpenAI, process: ServedProcess) -> None:
    """From the same state of the KV cache: every one of them knows the prompt."""
    messages: Any = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "What is 2+2?"},
    ]
    fields: Any = {"model": process.model, "temperature": 0}
    texts = set()
    for _ in range(2):
        chat = real.chat.completions.create(messages=messages, max_tokens=30, **fields)
        response = real.responses.create(
            **asked(process, instructions="You are brief.", max_output_tokens=30)
        )
        assert response.usage is not None and chat.usage is not None
        assert response.usage.input_tokens == chat.usage.prompt_tokens
        texts = {chat.choices[0].message.content, response.output_text}
    assert len(texts) == 1


@pytest.mark.model
def test_a_plain_stream(real: OpenAI, process: ServedProcess) -> None:
    events = list(real.responses.create(**asked(process), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text and "4" in text


@pytest.mark.model
def test_the_client_s_stream_helper(real: OpenAI, process: ServedProcess) -> None:
    """It checks the events as it puts them together."""
    with real.responses.stream(**asked(process)) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == "".join(delta.delta for delta in deltas) == deltas[-1].snapshot
    assert "4" in final.output_text


@pytest.mark.model
def test_parse_gives_an_object_of_the_class(real: OpenAI, process: ServedProcess) -> None:
    given = f"Extract the person as JSON: {TEXT}"
    fields = asked(process, given, max_output_tokens=200, text_format=Person)
    answer = real.responses.parse(**fields)
    person = answer.output_parsed
    assert isinstance(person, Person) and isinstance(person.address, Address)
    assert "Anna" in person.name
    with real.responses.stream(**fields) as stream:
        done = [event for event in stream if event.type == "response.output_text.done"]
        assert isinstance(done[0].parsed, Person)
        assert isinstance(stream.get_final_response().output_parsed, Person)


@pytest.mark.model
def test_a_second_turn_knows_the_first(real: OpenAI, process: ServedProcess) -> None:
    """The conversation goes on as OpenAI's guide has it: what came out goes in again."""
    given: Any = [{"role": "user", "content": "What is the color of the sky on a clear day?"}]
    first = real.responses.create(**asked(process, given))
    given += first.output
    given.append({"role": "user", "content": "And of grass?"})
    second = real.responses.create(**asked(process, given))
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens


@pytest.mark.model
def test_cut_by_the_limit(real: OpenAI, process: ServedProcess) -> None:
    answer = real.responses.create(**asked(process, "Count from 1 to 100.", max_output_tokens=5))
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None and answer.usage.output_tokens == 5


@pytest.mark.model
def test_the_asynchronous_client(process: ServedProcess) -> None:
    async def run() -> tuple[str, str, Any]:
        async with AsyncOpenAI(base_url=f"{process.url}/v1", api_key="any") as client:

            async def streamed() -> str:
                async with client.responses.stream(**asked(process)) as stream:
                    return (await stream.get_final_response()).output_text

            parsed = asked(process, f"Extract: {TEXT}", max_output_tokens=200, text_format=Person)
            whole, text, person = await asyncio.gather(
                client.responses.create(**asked(process)),
                streamed(),
                client.responses.parse(**parsed),
            )
            return whole.output_text, text, person.output_parsed

    whole, text, person = asyncio.run(run())
    assert "4" in whole and "4" in text and isinstance(person, Person)


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_error_classes(real: OpenAI, process: ServedProcess, stream: bool) -> None:
    def refused(kind: type[openai.APIStatusError], **fields: Any) -> tuple[Any, ...]:
        with pytest.raises(kind) as caught:
            real.responses.create(**asked(process, **fields), stream=stream)
        return caught.value.param, caught.value.code

    bad = openai.BadRequestError
    assert refused(bad, temperature=5) == ("temperature", "invalid_value")
    assert refused(bad, given="word " * 10000) == ("input", "context_length_exceeded")
    assert refused(bad, previous_response_id="resp_1") == ("previous_response_id", "invalid_value")
    assert refused(bad, tools=[{"type": "web_search"}]) == ("tools", "invalid_value")
    assert refused(bad, tools=[FLAT_TOOL]) == ("tools", "invalid_value")
    broken = {"type": "json_schema", "name": "x", "schema": {"type": "years"}}
    assert refused(bad, text={"format": broken}) == ("text", "invalid_value")
    fields: Any = {**asked(process), "model": "gpt-9", "stream": stream}
    with pytest.raises(openai.NotFoundError) as caught:
        real.responses.create(**fields)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_arguments_become_an_object_of_the_class(client: OpenAI, told: Served, choice: Any) -> None:
    told.answer(CALL)
    answer = client.responses.parse(
        model="tiny", input="How is Rome?", tools=[TOOL], tool_choice=choice
    )
    (call,) = answer.output
    assert call.type == "function_call" and call.name == "GetWeather"
    assert call.parsed_arguments == GetWeather(city="Rome", unit="c")


def test_the_client_s_stream_of_a_call(client: OpenAI, told: Served) -> None:
    told.answer(f"I will look.\n{CALL}")
    with client.responses.stream(model="tiny", input="How is Rome?", tools=[TOOL]) as stream:
        deltas = [e for e in stream if e.type == "response.function_call_arguments.delta"]
        message, call = stream.get_final_response().output
    assert len(deltas) > 10
    assert deltas[-1].snapshot == '{"city": "Rome", "unit": "c"}'
    assert message.type == "message" and call.type == "function_call"
    assert call.parsed_arguments == GetWeather(city="Rome", unit="c")


@pytest.mark.parametrize("stream", [False, True])
def test_call_output_answer(client: OpenAI, told: Served, stream: bool) -> None:
    def answer(given: Any) -> Any:
        fields: Any = {"model": "tiny", "input": given, "tools": [FLAT_TOOL]}
        if not stream:
            return client.responses.create(**fields)
        *_, last = client.responses.create(**fields, stream=True)
        assert last.type == "response.completed"
        return last.response

    given: Any = [{"role": "user", "content": "How is Rome?"}]
    told.answer(f"I will look.\n{CALL}\n{CALL}")
    first = answer(given)
    given += first.output
    calls = [item for item in first.output if item.type == "function_call"]
    assert len({call.call_id for call in calls}) == 2
    given += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        for call in calls
    ]
    told.answer("It is sunny.")
    second = answer(given)
    assert (second.output_text, second.status) == ("It is sunny.", "completed")
    assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens


def test_an_error_behind_the_first_text_is_raised(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=0.1))
    with Served(tiny_model_dir, FakeRunner(step_s=0.01), config) as served:
        served.answer_forever()
        text = ""
        with client_of(served.url) as client, pytest.raises(openai.APIError) as caught:
            for event in client.responses.create(model="tiny", input="hi", stream=True):
                text += event.delta if event.type == "response.output_text.delta" else ""
        assert text and caught.value.code == "deadline_exceeded"
        served.check_no_leak()


def test_leaving_in_the_middle_frees_the_seat(client: OpenAI, told: Served) -> None:
    told.answer_forever()
    with client.responses.stream(model="tiny", input="hi", max_output_tokens=4000) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    told.check_no_leak()
