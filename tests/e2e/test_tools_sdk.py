"""Tools through OpenAI's own client: its classes, its stream helper, a round of call and result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests import tiny_model
from tests.fakes import FakeRunner
from tests.served_process import ServedProcess
from tests.server import Served

CALL = (
    '<tool_call>\n{"name": "GetWeather", "arguments": {"city": "Rome", "unit": "c"}}\n</tool_call>'
)


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["c", "f"]


class Reply(BaseModel):
    text: str


TOOL: Any = openai.pydantic_function_tool(GetWeather)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tiny_model.make(tmp_path_factory.mktemp("tools") / "tiny")
    with Served(directory, FakeRunner(max_model_len=4096)) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def asked(**fields: Any) -> Any:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How is Rome?"}],
        "tools": [TOOL],
        "temperature": 0,
        "max_tokens": 400,
        **fields,
    }


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_arguments_become_an_object_of_the_class(
    client: OpenAI, served: Served, choice: str
) -> None:
    served.answer(CALL)
    (answer,) = client.chat.completions.parse(**asked(tool_choice=choice)).choices
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    (call,) = answer.message.tool_calls or ()
    assert call.function.parsed_arguments == GetWeather(city="Rome", unit="c")


def test_the_client_s_stream_of_it(client: OpenAI, served: Served) -> None:
    served.answer(f"I will look.\n{CALL}")
    with client.chat.completions.stream(**asked()) as stream:
        events = list(stream)
        (answer,) = stream.get_final_completion().choices
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert "".join(e.arguments_delta for e in deltas) == '{"city": "Rome", "unit": "c"}'
    assert len(deltas) > 10 and len(done) == 1 and done[0].name == "GetWeather"
    assert answer.message.content == "I will look."
    (call,) = answer.message.tool_calls or ()
    assert call.function.parsed_arguments == GetWeather(city="Rome", unit="c")


def test_call_result_answer(client: OpenAI, served: Served) -> None:
    served.answer(CALL)
    fields = asked()
    message = client.chat.completions.create(**fields).choices[0].message
    (call,) = message.tool_calls or ()
    fields["messages"] += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    served.answer("It is sunny.")
    (answer,) = client.chat.completions.create(**fields).choices
    assert (answer.message.content, answer.finish_reason) == ("It is sunny.", "stop")
    assert answer.message.tool_calls is None


def test_a_call_or_an_answer_of_a_class(client: OpenAI, served: Served) -> None:
    served.answer('{"text": "sunny"} is it')
    (answer,) = client.chat.completions.parse(**asked(response_format=Reply)).choices
    assert answer.message.parsed == Reply(text="sunny") and not answer.message.tool_calls
    served.answer(CALL)
    (answer,) = client.chat.completions.parse(**asked(response_format=Reply)).choices
    assert answer.message.parsed is None and len(answer.message.tool_calls or ()) == 1


@pytest.mark.parametrize("n", [1, 3])
def test_several_answers_have_calls_of_their_own(served: Served, n: int) -> None:
    async def run() -> list[list[str]]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            arguments = [""] * n
            ids: list[list[str]] = [[] for _ in range(n)]
            stream = await client.chat.completions.create(**asked(n=n, stream=True))
            async for chunk in stream:
                (choice,) = chunk.choices
                for call in choice.delta.tool_calls or ():
                    assert call.function is not None
                    arguments[choice.index] += call.function.arguments or ""
                    ids[choice.index] += [call.id] if call.id else []
            assert arguments == ['{"city": "Rome", "unit": "c"}'] * n
            return ids

    served.answer(CALL)
    ids = asyncio.run(run())
    assert all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == n


def test_log_probabilities_of_a_call_s_tokens(client: OpenAI, served: Served) -> None:
    """All tokens have them, those of the markup too, whichever chunk they come with."""
    served.answer(f"Well. {CALL}")
    (whole,) = client.chat.completions.create(**asked(logprobs=True)).choices
    tokens = []
    for chunk in client.chat.completions.create(**asked(logprobs=True, stream=True)):
        logprobs = chunk.choices[0].logprobs
        tokens += [token.token for token in (logprobs.content if logprobs else None) or ()]
    assert whole.logprobs is not None
    assert "".join(tokens) == f"Well. {CALL}"
    assert [token.token for token in whole.logprobs.content or ()] == tokens


@pytest.mark.model
def test_a_model_whose_template_shows_no_tools(model_dir: Path) -> None:
    """The embedded one: better a word than tools that are never called."""
    with ServedProcess(model_dir) as process:
        client = OpenAI(base_url=f"{process.url}/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**asked(model=process.model))
        assert caught.value.param == "tools" and "template" in caught.value.message
        answer = client.chat.completions.create(
            **asked(model=process.model, tool_choice="none", max_tokens=3)
        )
        assert answer.choices[0].message.content
