"""The loop of OpenAI's own client that runs tools and sends their results until there is an answer.

It checks every item of a response more strictly than its types do, before it runs a tool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.responses_tool_runner import (
    AsyncRegisteredFunction,
    AsyncResponsesToolRunner,
    RegisteredFunction,
    ResponsesToolRunner,
    ToolRunnerError,
)
from pydantic import BaseModel

from tests import tiny_model
from tests.fakes import FakeRunner
from tests.server import Served


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["c", "f"]


def call(city: str) -> str:
    arguments = f'{{"city": "{city}", "unit": "c"}}'
    return f'<tool_call>\n{{"name": "GetWeather", "arguments": {arguments}}}\n</tool_call>'


TOOL = openai.pydantic_responses_function_tool(GetWeather)
RULES = (
    ("snow in Oslo", "Sunny in Rome, snow in Oslo."),
    ("sun in Rome", f"Now the other.\n{call('Oslo')}"),
    ("", call("Rome")),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tiny_model.make(tmp_path_factory.mktemp("runner") / "tiny")
    with Served(directory, FakeRunner(max_model_len=8192)) as served:
        yield served


def weather(asked: GetWeather) -> str:
    return {"Rome": "sun in Rome", "Oslo": "snow in Oslo"}[asked.city]


@pytest.mark.parametrize(("stream", "eager"), [(False, False), (True, False), (True, True)])
def test_the_loop_comes_to_an_answer(served: Served, stream: bool, eager: bool) -> None:
    served.answer_by(*RULES)
    kinds: list[str] = []
    runner = ResponsesToolRunner(functions=[RegisteredFunction.from_tool(TOOL, execute=weather)])
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        answer = runner.run(
            client,
            {"model": "tiny", "input": "How are Rome and Oslo?"},
            stream=stream,
            eager=eager,
            on_event=(lambda event: kinds.append(event.type)) if stream else None,
        )
    assert answer.output_text == "Sunny in Rome, snow in Oslo."
    assert kinds.count("response.completed") == (3 if stream else 0)


def test_several_calls_of_one_answer_in_the_asynchronous_client(served: Served) -> None:
    served.answer_by(("snow in Oslo", "Both."), ("", f"{call('Rome')}\n{call('Oslo')}"))
    seen = []

    async def execute(asked: GetWeather) -> str:
        seen.append(asked.city)
        return weather(asked)

    async def run() -> Any:
        runner = AsyncResponsesToolRunner(
            functions=[AsyncRegisteredFunction.from_tool(TOOL, execute=execute)]
        )
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            return await runner.run(client, {"model": "tiny", "input": "How are they?"})

    assert asyncio.run(run()).output_text == "Both."
    assert seen == ["Rome", "Oslo"]


def test_an_answer_that_is_cut_runs_no_tool(served: Served) -> None:
    served.answer_by(*RULES)
    runner = ResponsesToolRunner(functions=[RegisteredFunction.from_tool(TOOL, execute=weather)])
    with (
        OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(ToolRunnerError) as caught,
    ):
        runner.run(client, {"model": "tiny", "input": "How is Rome?", "max_output_tokens": 60})
    assert not caught.value.attempted_call_ids
