"""`POST /v1/responses`: what is answered as a whole; its stream is another file's."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from appliance.api.response_object import asked
from appliance.api.response_request import FunctionTool, ResponseRequest
from appliance.config import Config, ServerConfig
from appliance.errors import RequestError
from tests import tiny_model
from tests.server import Served

TIME = {"type": "function", "name": "get_time"}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "the weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
    },
}
TOOLS = [WEATHER, TIME]
ROME = '{"city": "Rome"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ROME}}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
LOGPROBS = {"include": ["message.output_text.logprobs"]}


@pytest.fixture
def served(roomy_server: Served) -> Served:
    return roomy_server


def answered(response: Any) -> Any:
    """The body, which OpenAI's own class takes without bending any of it."""
    assert response.status_code == 200, response.text
    Response.model_validate(response.json(), strict=True)
    return response.json()


def text_of(body: Any) -> str:
    (message,) = body["output"]
    assert message["type"] == "message" and message["role"] == "assistant"
    (part,) = message["content"]
    return str(part["text"])


def calls_of(body: Any) -> list[tuple[str, str]]:
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    assert all(re.fullmatch(r"fc_\w{32}", call["id"]) for call in calls)
    assert all(re.fullmatch(r"call_\w{24}", call["call_id"]) for call in calls)
    assert len({call["call_id"] for call in calls}) == len(calls)
    return [(call["name"], call["arguments"]) for call in calls]


def refused(response: Any, param: str | None, *, code: str = "invalid_value") -> str:
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error
    return str(error["message"])


def prompt_of(served: Served) -> str:
    """The text of the last prompt that was computed and its answer, special tokens left out."""
    row = max((list(row) for row in served.kv.rows), key=len)
    return bytes(token_id for token_id in row if token_id < 256).decode()


def test_the_whole_answers_shape(served: Served) -> None:
    before = int(time.time())
    body = answered(served.respond(metadata={"a": "b"}, temperature=0.5, max_output_tokens=9))
    assert re.fullmatch(r"resp_\w{32}", body.pop("id"))
    assert before <= body.pop("created_at") <= body.pop("completed_at") <= time.time()
    (message,) = body.pop("output")
    assert re.fullmatch(r"msg_\w{32}", message.pop("id"))
    part = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    num_input = len(tiny_model.PROMPT_END) + len("\x01user\nhi\x01\n")
    assert body == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "model": "tiny",
        "parallel_tool_calls": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": None},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": None,
        "usage": {
            "input_tokens": num_input,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": num_input + 5,
        },
        "background": False,
        "max_tool_calls": None,
        "previous_response_id": None,
        "reasoning": None,
        "store": False,
        "truncation": "disabled",
        "user": None,
    }


def test_an_empty_answer_is_a_message_without_text(served: Served) -> None:
    served.answer("")
    assert text_of(answered(served.respond())) == ""


def test_an_answer_that_is_cut(served: Served) -> None:
    body = answered(served.respond(max_output_tokens=3))
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (text_of(body), body["output"][0]["status"]) == ("hel", "incomplete")


def test_a_call_that_is_cut_behind_one_that_is_whole(served: Served) -> None:
    served.answer(f"{NOW}\n{CALL}")
    num_tokens = len(NOW) + 1 + CALL.index("Rome") + 2
    body = answered(served.respond(tools=TOOLS, max_output_tokens=num_tokens))
    assert calls_of(body) == [("get_time", "{}"), ("get_weather", '{"city": "Ro')]
    assert [item["status"] for item in body["output"]] == ["completed", "incomplete"]
    assert body["status"] == "incomplete"


def test_known_tokens_are_counted(served: Served) -> None:
    answered(served.respond())
    usage = answered(served.respond())["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] == usage["input_tokens"] - 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"stop": "l"}, "he"),
        ({"max_output_tokens": 2}, "he"),
        ({"logit_bias": {str(ord("h")): -100, str(ord("j")): 50}}, "j"),
        ({"temperature": 0, "top_k": 3, "seed": 5}, "hello"),
    ],
)
def test_sampling_is_as_in_chat(served: Served, fields: dict[str, Any], text: str) -> None:
    assert text_of(answered(served.respond(**fields))).startswith(text)


def test_timings(served: Served) -> None:
    assert answered(served.respond(timings=True))["timings"]["predicted_n"] == 5


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"type": "json_object"}, lambda text: isinstance(json.loads(text), dict)),
        (
            {"type": "json_schema", "name": "x", "schema": SCHEMA},
            lambda text: json.loads(text)["n"] in (1, 2),
        ),
        (
            {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True},
            lambda text: json.loads(text)["n"] in (1, 2),
        ),
        ({"type": "text"}, lambda text: text == "I will not {write} JSON."),
    ],
    ids=str,
)
def test_the_text_has_the_form_that_is_asked_for(
    served: Served, form: dict[str, Any], fits: Any
) -> None:
    served.answer("I will not {write} JSON.")
    if form["type"] == "json_object":
        served.answer("{}")
    body = answered(served.respond(text={"format": form}, max_output_tokens=200))
    assert fits(text_of(body))
    assert body["text"]["format"].items() >= form.items()


def test_the_guided_extensions_are_taken_too(served: Served) -> None:
    assert text_of(answered(served.respond(guided_choice=["red"]))) == "red"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}},
            "text",
            "text.format.schema",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text", "schema: needed"),
        ({"text": {"format": {"type": "grammar"}}}, "text", "text.format"),
        (
            {"text": {"format": {"type": "json_object"}}, "guided_regex": "a"},
            "guided_regex",
            "text.format and guided_regex",
        ),
    ],
)
def test_a_form_that_cannot_be(
    served: Served, fields: dict[str, Any], param: str, words: str
) -> None:
    assert words in refused(served.respond(**fields), param)


def test_calls_that_the_model_chose_to_make(served: Served) -> None:
    served.answer(f"I will look.\n{CALL}\n{NOW}")
    body = answered(served.respond(tools=TOOLS))
    assert body["status"] == "completed"
    assert [item["type"] for item in body["output"]] == [
        "message",
        "function_call",
        "function_call",
    ]
    assert body["output"][0]["content"][0]["text"] == "I will look."
    assert calls_of(body) == [("get_weather", ROME), ("get_time", "{}")]
    assert body["tools"][0] == WEATHER
    assert '"name": "get_weather", "description": "the weather of a city"' in prompt_of(served)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "name": "get_weather"}, {"get_weather"}),
        ({"type": "function", "name": "get_time"}, {"get_time"}),
    ],
)
@pytest.mark.parametrize("parallel", [True, False])
def test_calls_that_it_is_made_to_make(
    served: Served, choice: Any, names: set[str], parallel: bool
) -> None:
    served.answer(f"{CALL}\n{CALL}")
    body = answered(
        served.respond(tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel, seed=1)
    )
    calls = calls_of(body)
    assert calls and len(calls) == len(body["output"])
    assert {name for name, _ in calls} <= names
    assert len(calls) == (2 if parallel and choice == "required" else 1)
    for name, arguments in calls:
        assert name == "get_time" or len(json.loads(arguments)["city"]) <= 8
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (choice, parallel)


def test_none_is_no_tools_at_all(served: Served) -> None:
    served.answer(CALL)
    assert text_of(answered(served.respond(tools=TOOLS, tool_choice="none"))) == CALL
    assert "the weather of a city" not in prompt_of(served)


BAD = {"type": "function", "name": "bad", "parameters": {"properties": {"a": {"type": "x"}}}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools", "'web_search' - at tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools", "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools", "[0].name"),
        ({"tools": [TIME, TIME]}, "tools", "two of 'get_time'"),
        (
            {"tools": [{**TIME, "parameters": {"type": "array"}}]},
            "tools",
            "tools[0].parameters: must be",
        ),
        (
            {"tools": [TIME, BAD], "tool_choice": "required"},
            "tools",
            "tools[1].parameters.properties.a: ",
        ),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice",
            "names 'x'",
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "allowed"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_with_tools(
    served: Served, fields: dict[str, Any], param: str, words: str
) -> None:
    message = refused(served.respond(**fields), param)
    assert words.replace(" - at tools[0].type", "") in message


def test_log_probabilities(served: Served) -> None:
    body = answered(served.respond(**LOGPROBS, top_logprobs=2))
    tokens = body["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in tokens) == "hello"
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(token["top_logprobs"][0]["token"] == token["token"] for token in tokens)
    assert body["top_logprobs"] == 2
    bare = answered(served.respond(**LOGPROBS))
    assert [token["top_logprobs"] for token in bare["output"][0]["content"][0]["logprobs"]] == [
        []
    ] * 5
    assert "include" in refused(served.respond(top_logprobs=2), "top_logprobs")


def test_other_things_to_include_are_of_what_is_not_there(served: Served) -> None:
    body = answered(served.respond(include=["reasoning.encrypted_content"]))
    assert body["output"][0]["content"][0]["logprobs"] == []
    refused(served.respond(include=["everything"]), "include")


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_names_input(served: Served, stream: bool) -> None:
    response = served.respond("x" * 2100, stream=stream)
    assert "2048 tokens" in refused(response, "input", code="context_length_exceeded")


def test_too_many_tokens_are_called_what_the_client_calls_them(served: Served) -> None:
    assert "max_output_tokens is 1000000" in refused(
        served.respond(max_output_tokens=10**6), "max_output_tokens"
    )
    refused(served.respond(max_output_tokens=0), "max_output_tokens")


def test_stream_options_only_with_a_stream(served: Served) -> None:
    options = {"include_obfuscation": False}
    refused(served.respond(stream_options=options), "stream_options")
    assert served.respond(stream=True, stream_options=options).status_code == 200


def test_too_many_items(tmp_path: Path) -> None:
    config = Config(server=ServerConfig(max_messages=2))
    with Served(tiny_model.make(tmp_path / "tiny"), config=config) as served:
        served.answer("hello")
        items = [{"role": "user", "content": "hi"}] * 3
        assert "server.max_messages" in refused(served.respond(items), "input")
        answered(served.respond(items[:2], instructions="be brief"))


def test_parameters_that_can_be_read_but_not_be_written_again() -> None:
    """How deep they may be nested depends on how deep the reader and the writer are called."""
    parameters: dict[str, Any] = {}
    for _ in range(100_000):
        parameters = {"a": parameters}
    tool = FunctionTool(name="f", parameters=parameters, type="function")
    with pytest.raises(RequestError, match="nested too deep") as caught:
        asked(ResponseRequest(model="tiny", input="hi", tools=[tool]))
    assert caught.value.param == "tools"
