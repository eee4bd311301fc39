"""Nothing a client sends is dropped without a word: it is supported, ignored or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai.types import completion_create_params as openai_completion
from openai.types.chat import completion_create_params as openai_chat
from openai.types.responses import response_create_params as openai_response

from appliance.api import parameters as parameters_module
from appliance.api.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    RESPONSE_PARAMETERS,
    Parameter,
    Support,
    check_refused,
    table,
)
from appliance.api.response_request import ResponseRequest
from appliance.api.schemas import ChatCompletionRequest, CompletionRequest
from tests.server import CHAT, COMPLETIONS, RESPONSES, Served, chat_body

README = Path(parameters_module.__file__).with_name("README.md")
TABLES = {
    "chat": CHAT_PARAMETERS,
    "completions": COMPLETION_PARAMETERS,
    "responses": RESPONSE_PARAMETERS,
}
STRUCTS = {
    "chat": ChatCompletionRequest,
    "completions": CompletionRequest,
    "responses": ResponseRequest,
}
OPENAI = {
    "chat": (
        openai_chat.CompletionCreateParamsBase,
        openai_chat.CompletionCreateParamsNonStreaming,
        openai_chat.CompletionCreateParamsStreaming,
    ),
    "completions": (
        openai_completion.CompletionCreateParamsBase,
        openai_completion.CompletionCreateParamsNonStreaming,
        openai_completion.CompletionCreateParamsStreaming,
    ),
    "responses": (
        openai_response.ResponseCreateParamsBase,
        openai_response.ResponseCreateParamsNonStreaming,
        openai_response.ResponseCreateParamsStreaming,
    ),
}
BODIES = {
    "chat": (CHAT, chat_body(max_tokens=1)),
    "completions": (COMPLETIONS, {"model": "tiny", "prompt": "hi", "max_tokens": 1}),
    "responses": (RESPONSES, {"model": "tiny", "input": "hi", "max_output_tokens": 1}),
}
ENDPOINTS = pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])

# For each supported parameter a value that an answer of one token can be made with.
SUPPORTED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "model": "tiny",
    "max_tokens": 1,
    "max_completion_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"5": -1},
    "seed": 1,
    "stop": ["\n"],
    "stream": False,
    "stream_options": None,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "stop_token_ids": [5],
    "n": 2,
    "timings": True,
    "continue_final_message": False,
    "add_generation_prompt": True,
    "top_logprobs": 0,
    "ignore_eos": True,
    "response_format": {"type": "text"},
    "guided_json": None,
    "guided_regex": None,
    "guided_choice": None,
    "guided_grammar": None,
    "structured_outputs": {},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "input": [{"role": "user", "content": "hi"}],
    "instructions": "be brief",
    "max_output_tokens": 1,
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
    "metadata": {"a": "b"},
}
# What has another form, or is only known, at one endpoint.
OTHERWISE: dict[str, dict[str, Any]] = {
    "chat": {"logprobs": True},
    "completions": {"logprobs": 3},
    "responses": {"tools": [{"type": "function", "name": "f"}]},
}
IGNORED: dict[str, Any] = {
    "user": "someone",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "abc",
    "prompt_cache_key": "abc",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "verbosity": "low",
    "reasoning": {"effort": "low", "summary": "auto"},
    "max_tool_calls": 1,
    "access_programs": {"cyber": "standard"},
}
REFUSED: dict[str, tuple[Any, ...]] = {
    "best_of": (2, 0, True),
    "echo": (True,),
    "suffix": ("end",),
    "functions": ([{"name": "f"}],),
    "function_call": ({"name": "f"},),
    "modalities": (["text", "audio"],),
    "audio": ({"voice": "alloy", "format": "wav"},),
    "moderation": ({"model": "omni-moderation-latest"},),
    "prediction": ({"type": "content", "content": "x"},),
    "web_search_options": ({},),
    "previous_response_id": ("resp_1", ""),
    "conversation": ("conv_1", {"id": "conv_1"}),
    "background": (True, 0),
    "background_options": ({"completion_window": "2h"},),
    "prompt": ({"id": "pmpt_1"},),
    "truncation": ("auto",),
    "context_management": ([{"type": "compaction"}],),
    "image": ({"context_compression": "auto"},),
    "messages": ([{"role": "user", "content": "hi"}],),
    "max_tokens": (1,),
    "max_completion_tokens": (1,),
    "response_format": ({"type": "json_object"},),
    "logprobs": (True, 1, 0),
    "n": (2,),
}
NEEDED = {
    "chat": ("model", "messages"),
    "completions": ("model", "prompt"),
    "responses": ("model", "input"),
}


def post(served: Served, endpoint: str, **fields: Any) -> Any:
    path, body = BODIES[endpoint]
    return served.client.post(path, json={**body, **fields})


def named(endpoint: str, support: Support) -> list[Parameter]:
    return [parameter for parameter in TABLES[endpoint] if parameter.support is support]


@ENDPOINTS
def test_every_parameter_that_openai_knows_stands_in_the_table(endpoint: str) -> None:
    known = {name for params in OPENAI[endpoint] for name in params.__annotations__}
    assert len(known) >= 17
    assert known - {parameter.name for parameter in TABLES[endpoint]} == set()


@ENDPOINTS
def test_no_parameter_stands_twice(endpoint: str) -> None:
    names = [parameter.name for parameter in TABLES[endpoint]]
    assert len(names) == len(set(names))


@ENDPOINTS
def test_every_field_stands_in_the_table_and_only_ignored_ones_are_no_field(endpoint: str) -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(STRUCTS[endpoint])}
    ignored = {parameter.name for parameter in named(endpoint, Support.IGNORED)}
    assert fields == {parameter.name for parameter in TABLES[endpoint]} - ignored


@ENDPOINTS
def test_supported_parameters_are_taken(served: Served, endpoint: str) -> None:
    supported = {**SUPPORTED, **OTHERWISE[endpoint]}
    for parameter in named(endpoint, Support.SUPPORTED):
        response = post(served, endpoint, **{parameter.name: supported[parameter.name]})
        assert response.status_code == 200, (parameter.name, response.text)


@ENDPOINTS
def test_ignored_parameters_change_nothing(served: Served, endpoint: str) -> None:
    said = "output" if endpoint == "responses" else "choices"

    def answer(**fields: Any) -> str:
        """Without its id, which is another one every time."""
        return re.sub(r"\bmsg_\w+", "", str(post(served, endpoint, **fields).json()[said]))

    plain = answer()
    for parameter in named(endpoint, Support.IGNORED):
        assert answer(**{parameter.name: IGNORED[parameter.name]}) == plain, parameter.name


@ENDPOINTS
def test_refused_parameters_are_named(served: Served, endpoint: str) -> None:
    for parameter in named(endpoint, Support.REFUSED):
        for value in REFUSED[parameter.name]:
            response = post(served, endpoint, **{parameter.name: value})
            assert response.status_code == 400, (parameter.name, value)
            error = response.json()["error"]
            assert error["param"] == parameter.name
            assert error["code"] == "invalid_value"
            assert parameter.name in error["message"]


@ENDPOINTS
def test_refused_parameters_pass_with_a_value_that_asks_for_nothing(
    served: Served, endpoint: str
) -> None:
    for parameter in named(endpoint, Support.REFUSED):
        for value in (None, *parameter.harmless):
            response = post(served, endpoint, **{parameter.name: value})
            assert response.status_code == 200, (parameter.name, value, response.text)


def test_null_is_absent_for_every_parameter(served: Served) -> None:
    """OpenAI's own clients and many others send null for what is not set."""
    for endpoint in TABLES:
        for parameter in TABLES[endpoint]:
            if parameter.name not in NEEDED[endpoint]:
                response = post(served, endpoint, **{parameter.name: None})
                assert response.status_code == 200, (parameter.name, response.text)


def test_keys_that_nobody_knows_are_tolerated(served: Served) -> None:
    assert post(served, "chat", some_new_thing={"a": [1]}).status_code == 200


def test_a_bool_is_no_harmless_number() -> None:
    refused = (Parameter("n", Support.REFUSED, "one", (1,)),)
    check_refused(refused, {"n": 1})
    with pytest.raises(Exception, match="'n' is not supported"):
        check_refused(refused, {"n": True})


@ENDPOINTS
def test_the_readme_holds_the_table(endpoint: str) -> None:
    """To renew it: `table()` of the module, between the two markers."""
    text = README.read_text(encoding="utf-8")
    block = re.search(rf"<!-- parameters:{endpoint} -->\n(.*?)<!-- /parameters -->", text, re.S)
    assert block is not None
    assert block[1].strip() == table(TABLES[endpoint]).strip()


@ENDPOINTS
def test_every_note_fits_a_table_cell(endpoint: str) -> None:
    for parameter in TABLES[endpoint]:
        assert parameter.note and not re.search(r"[|\n]", parameter.note)
        assert not parameter.harmless or parameter.support is Support.REFUSED
