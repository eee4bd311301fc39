"""LangChain's own standard tests of chat models, with its OpenAI integration against the service.

They run on the embedded model, and on one that is told what to say where they want an answer, or a
call of a tool, that so small a model does not come to by itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests import tiny_model
from tests.clients import tool_model
from tests.fakes import FakeRunner
from tests.served_process import ServedProcess
from tests.server import Served

pytestmark = [
    pytest.mark.clients,
    pytest.mark.model,
    # What the client does with its own objects.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning"),
]

JOKE = json.dumps({"setup": "Why did the cat sit?", "punchline": "It was a 'sit' uation."})


def call(name: str, **arguments: Any) -> str:
    """What a model writes to call a function."""
    text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"


MAGIC = [("", call("magic_function", input=3))]
TOLD = {
    "test_tool_calling": MAGIC,
    "test_tool_calling_async": MAGIC,
    "test_tool_calling_with_no_arguments": [("", call("magic_function_no_args"))],
    "test_tool_choice": MAGIC,
    "test_bind_runnables_as_tools": [("", call("greeting_generator", answer_style="Pirate"))],
    "test_structured_output": [("", JOKE)],
    "test_structured_output_async": [("", JOKE)],
    "test_structured_output_optional_param": [
        ("no punchline", '{"setup": "A cat.", "punchline": null}'),
        ("", JOKE),
    ],
    "test_structured_output_pydantic_2_v1": [
        ("function", call("Joke", **json.loads(JOKE))),
        ("", JOKE),
    ],
    "test_json_mode": [("", JOKE)],
    "test_agent_loop": [
        ("It's sunny.", "The weather in San Francisco is sunny."),
        ("", call("get_weather", location="San Francisco, CA")),
    ],
    "test_unicode_tool_call_integration": [
        (
            "こんにちは",
            call("unicode_customer", customer_name="こんにちは株式会社", description="x"),
        ),
        ("", call("unicode_customer", customer_name="你好啊集团", description="科技公司")),
    ],
}


@pytest.fixture(scope="module")
def real(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    directory = tool_model.make(tmp_path_factory.mktemp("real") / "model", model_dir)
    with ServedProcess(directory) as served:
        yield served


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tiny_model.make(tmp_path_factory.mktemp("told") / "tiny")
    with Served(directory, FakeRunner(max_model_len=8192)) as served:
        yield served


class TestChatCompletions(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    async def _serve(
        self, request: pytest.FixtureRequest, real: ServedProcess, told: Served
    ) -> AsyncIterator[None]:
        rules = TOLD.get(request.function.__name__)
        told.answer_by(*rules or ())
        model, url, limit = ("tiny", told.url, 400) if rules else (real.model, real.url, 40)
        # By itself LangChain keeps connections for ever, even into the next test's event loop.
        with httpx.Client() as client:
            async with httpx.AsyncClient() as async_client:
                self._params = {
                    "model": model,
                    "base_url": f"{url}/v1",
                    "api_key": "any",
                    "max_tokens": limit,
                    "stream_usage": True,
                    "use_responses_api": False,
                    "http_client": client,
                    "http_async_client": async_client,
                }
                yield

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self._params

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestResponses(TestChatCompletions):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_an_image_is_refused(told: Served, use_responses_api: bool) -> None:
    image = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
    with httpx.Client() as client:
        model = ChatOpenAI(
            model="tiny",
            base_url=f"{told.url}/v1",
            api_key="any",  # type: ignore[arg-type]
            use_responses_api=use_responses_api,
            http_client=client,
        )
        with pytest.raises(openai.BadRequestError, match="image") as caught:
            model.invoke([("user", [{"type": "text", "text": "What is it?"}, image])])
    assert caught.value.param == ("input" if use_responses_api else "messages")


def test_a_prompt_that_does_not_fit_is_known_as_that(told: Served) -> None:
    with httpx.Client() as client:
        model = ChatOpenAI(
            model="tiny",
            base_url=f"{told.url}/v1",
            api_key="any",  # type: ignore[arg-type]
            http_client=client,
        )
        with pytest.raises(ContextOverflowError):
            model.invoke("long " * 2000)
        with pytest.raises(ContextOverflowError):
            list(model.stream("long " * 2000))
