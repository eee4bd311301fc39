"""Tools over HTTP: what the model is shown, what is enforced, and how calls are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server import Served, events

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"enum": [1, 7]}},
            "required": ["city", "days"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
TOOLS = [WEATHER, TIME]
ROME = '{"city": "Rome", "days": 7}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ROME}}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


@pytest.fixture
def served(roomy_server: Served) -> Served:
    return roomy_server


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def choice_of(response: Any) -> Any:
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice


def calls_of(choice: Any) -> list[tuple[str, str]]:
    calls = choice["message"]["tool_calls"]
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def streamed(response: Any) -> Any:
    """The choice that a client puts together; names come first, pieces in order."""
    message: dict[str, Any] = {"content": None, "tool_calls": []}
    reasons = []
    for number, chunk in enumerate(events(response)):
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        assert ("role" in delta) == (number == 0)
        if "content" in delta:
            assert not message["tool_calls"]
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(message["tool_calls"]) and call["type"] == "function"
                assert call["function"] == {"name": call["function"]["name"], "arguments": ""}
                message["tool_calls"].append({k: v for k, v in call.items() if k != "index"})
            else:
                assert set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}
                function = message["tool_calls"][call["index"]]["function"]
                function["arguments"] += call["function"]["arguments"]
        reasons.append(choice["finish_reason"])
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    return {"message": message, "finish_reason": reasons[-1]}


ANSWERS: list[tuple[str, str | None, list[tuple[str, str]]]] = [
    (CALL, None, [("get_weather", ROME)]),
    (f"I will look.\n{CALL}", "I will look.", [("get_weather", ROME)]),
    (f"{CALL}\n{NOW}", None, [("get_weather", ROME), ("get_time", "{}")]),
    (
        f'```json\n{{"name": "get_weather", "arguments": {ROME}}}\n```',
        None,
        [("get_weather", ROME)],
    ),
    (f'{{"name": "get_weather", "arguments": {ROME}}}', None, [("get_weather", ROME)]),
    (f"{CALL} The weather is fine.", None, [("get_weather", ROME)]),
]


@pytest.mark.parametrize(("text", "content", "calls"), ANSWERS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [None, "auto"])
def test_calls_that_the_model_chose_to_make(
    served: Served,
    text: str,
    content: str | None,
    calls: list[tuple[str, str]],
    stream: bool,
    choice: str | None,
) -> None:
    served.answer(text)
    response = served.chat(tools=TOOLS, tool_choice=choice, stream=stream)
    answer = streamed(response) if stream else choice_of(response)
    assert calls_of(answer) == calls
    assert answer["message"]["content"] == content
    assert answer["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_text_although_there_are_tools(served: Served, stream: bool) -> None:
    served.answer("It is <b>7</b> o'clock, {so} they say.")
    response = served.chat(tools=TOOLS, stream=stream)
    answer = streamed(response) if stream else choice_of(response)
    assert answer["message"]["content"] == "It is <b>7</b> o'clock, {so} they say."
    assert not answer["message"].get("tool_calls") and answer["finish_reason"] == "stop"
    assert stream or "tool_calls" not in answer["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "said", ["I do not want to.", CALL, f"{CALL}\n{CALL}", "{}", "<tool_call>{"]
)
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": "required"}, {"get_weather", "get_time"}),
        ({"tool_choice": named("get_weather")}, {"get_weather"}),
        ({"tool_choice": named("get_time"), "temperature": 1.5, "seed": 1}, {"get_time"}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"get_weather", "get_time"}),
    ],
    ids=str,
)
def test_calls_that_it_is_made_to_make(
    served: Served, said: str, fields: dict[str, Any], names: set[str], stream: bool
) -> None:
    served.answer(said)
    response = served.chat(tools=TOOLS, stream=stream, max_tokens=400, **fields)
    answer = streamed(response) if stream else choice_of(response)
    assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
    calls = calls_of(answer)
    assert calls and {name for name, _ in calls} <= names
    assert len(calls) == 1 or fields == {"tool_choice": "required"}
    for name, text in calls:
        arguments = json.loads(text)
        if name == "get_weather":
            assert list(arguments) == ["city", "days"] and len(arguments["city"]) <= 8
            assert arguments["days"] in (1, 7)
        else:
            assert arguments == {}


def test_a_second_call_is_not_told_where_one_is_asked_for(served: Served) -> None:
    served.answer(f"{CALL}\n{NOW}")
    answer = choice_of(served.chat(tools=TOOLS, parallel_tool_calls=False))
    assert calls_of(answer) == [("get_weather", ROME)]


def test_none_is_no_tools_at_all(served: Served) -> None:
    served.answer(CALL)
    answer = choice_of(served.chat(tools=TOOLS, tool_choice="none"))
    assert answer["message"]["content"] == CALL and answer["finish_reason"] == "stop"
    assert b"the weather of a city" not in prompt_of(served)


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_no_tools_to_choose_from(served: Served, choice: str | None) -> None:
    for tools in ([], None):
        answer = choice_of(served.chat(tools=tools, tool_choice=choice))
        assert answer["message"] == {"role": "assistant", "content": "hello", "refusal": None}


def test_cut_by_max_tokens_the_arguments_are_not_whole(served: Served) -> None:
    served.answer(CALL)
    answer = choice_of(served.chat(tools=TOOLS, max_tokens=CALL.index("Rome") + 2))
    assert answer["finish_reason"] == "length"
    assert calls_of(answer) == [("get_weather", '{"city": "Ro')]


def prompt_of(served: Served) -> bytes:
    """The text of the last prompt that was computed, special tokens left out."""
    row = max((list(row) for row in served.kv.rows), key=len)
    return bytes(token_id for token_id in row if token_id < 256)


def test_the_model_is_shown_the_tools(served: Served) -> None:
    choice_of(served.chat(tools=[{**WEATHER, "extra": 1}, TIME]))
    prompt = prompt_of(served).decode()
    shown = [json.loads(line) for line in prompt.split("\n") if line.startswith("{")]
    time = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
    assert shown == [WEATHER, {"type": "function", "function": time}]


def test_calls_and_results_of_the_conversation_so_far(served: Served) -> None:
    messages = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": ROME},
                },
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "get_time", "arguments": "{broken"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "fine"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
    ]
    choice_of(served.chat(tools=TOOLS, messages=messages))
    prompt = prompt_of(served).decode()
    assert '{"name": "get_weather", "arguments": {"city": "Rome", "days": 7}}' in prompt
    assert '{"name": "get_time", "arguments": "{broken"}' in prompt
    assert "tool\nfine" in prompt and "tool\nnoon" in prompt


def test_json_or_a_call(served: Served) -> None:
    """Which of the two is the model's choice, and both have their form."""
    schema = {"type": "object", "properties": {"x": {"enum": [1]}}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    served.answer('{"x": 1} and more')
    answer = choice_of(served.chat(tools=TOOLS, response_format=form))
    assert json.loads(answer["message"]["content"]) == {"x": 1}
    served.answer(f"{CALL} and more")
    assert calls_of(choice_of(served.chat(tools=TOOLS, response_format=form)))
    served.answer("no")
    required = served.chat(
        tools=TOOLS, response_format=form, tool_choice="required", max_tokens=400
    )
    assert calls_of(choice_of(required))


BAD = {
    "type": "function",
    "function": {"name": "bad", "parameters": {"properties": {"a": {"type": "x"}}}},
}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": TOOLS, "tool_choice": named("get_rain")}, "tool_choice", "get_rain"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": named("get_time")}, "tool_choice", "no tools"),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice", "always"),
        ({"tools": [TIME, TIME]}, "tools", "two of 'get_time'"),
        ({"tools": [TIME] * 129}, "tools", "at most 128"),
        ({"tools": [{"type": "retrieval"}]}, "tools", "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools",
            "[0].function.name",
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}
                ]
            },
            "tools",
            "tools[0].function.parameters: must be the schema of an object",
        ),
        (
            {"tools": [TIME, BAD], "tool_choice": "required"},
            "tools",
            "tools[1].function.parameters.properties.a: ",
        ),
        ({"tools": TOOLS, "guided_choice": ["a"]}, "guided_choice", "no room for a call"),
        ({"functions": [{"name": "f"}]}, "functions", "use `tools`"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_wrong_with_tools(
    served: Served, fields: dict[str, Any], param: str, words: str
) -> None:
    response = served.chat(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert words in error["message"]


def test_a_schema_nobody_enforces_may_hold_anything(served: Served) -> None:
    assert choice_of(served.chat(tools=[BAD]))["message"]["content"] == "hello"
