"""What `POST /v1/responses` is given becomes the same prompt as a chat completion's messages."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiny_model
from tests.server import Served

TIME = {"type": "function", "name": "get_time"}
CHAT_TIME = {"type": "function", "function": {"name": "get_time"}}
CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
USER = {"role": "user", "content": "time?"}
PARTS = [{"type": "input_text", "text": "ti"}, {"type": "input_text", "text": "me?"}]
FUNCTION_CALL = {
    "type": "function_call",
    "call_id": "call_1",
    "name": "get_time",
    "arguments": '{"in": "Rome"}',
}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "noon"}
TOOL_CALLS = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_time", "arguments": '{"in": "Rome"}'},
    }
]
TOOL = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}


@pytest.fixture
def served(roomy_server: Served) -> Served:
    return roomy_server


def prompt(served: Served, response: Any) -> list[int]:
    """The token ids of the one prompt that was computed since the server was reset."""
    assert response.status_code == 200, response.text
    (row,) = [row for row in served.kv.rows if row]
    return row[: len(row) - [*reversed(row)].index(tiny_model.PROMPT_END[0])]


SAME: list[tuple[Any, list[Any]]] = [
    ("time?", [USER]),
    ([USER], [USER]),
    ([{"type": "message", **USER}], [USER]),
    ([{"role": "user", "content": PARTS}], [USER]),
    ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
    (
        [{"role": "developer", "content": "be brief"}, USER],
        [{"role": "system", "content": "be brief"}, USER],
    ),
    (
        [
            USER,
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "noon", "annotations": [], "logprobs": []},
                    {"type": "refusal", "refusal": ", no more"},
                ],
            },
            USER,
        ],
        [USER, {"role": "assistant", "content": "noon, no more"}, USER],
    ),
    (
        [USER, FUNCTION_CALL, OUTPUT],
        [USER, {"role": "assistant", "content": "", "tool_calls": TOOL_CALLS}, TOOL],
    ),
    (
        [
            USER,
            {"role": "assistant", "content": "Well."},
            {**FUNCTION_CALL, "id": "fc_1", "status": "completed"},
            {**FUNCTION_CALL, "call_id": "call_2", "arguments": "{broken"},
            {**OUTPUT, "output": [{"type": "input_text", "text": "noon"}]},
            {**OUTPUT, "call_id": "call_2", "output": "night"},
        ],
        [
            USER,
            {
                "role": "assistant",
                "content": "Well.",
                "tool_calls": [
                    *TOOL_CALLS,
                    {"id": "call_2", "function": {"name": "get_time", "arguments": "{broken"}},
                ],
            },
            TOOL,
            {"role": "tool", "tool_call_id": "call_2", "content": "night"},
        ],
    ),
    (
        [
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            USER,
            {"type": "reasoning", "id": "rs_2", "content": [{"type": "reasoning_text"}]},
        ],
        [USER],
    ),
]


@pytest.mark.parametrize(("given", "messages"), SAME, ids=lambda value: str(value)[:40])
def test_it_is_the_same_prompt_as_a_chat_s(served: Served, given: Any, messages: list[Any]) -> None:
    ours = prompt(served, served.respond(given, tools=[TIME]))
    served.reset()
    response = served.chat(messages=messages, tools=[CHAT_TIME])
    assert ours == prompt(served, response)


def test_instructions_come_first(served: Served) -> None:
    ours = prompt(served, served.respond("time?", instructions="be brief"))
    served.reset()
    system = {"role": "system", "content": "be brief"}
    assert ours == prompt(served, served.chat(messages=[system, USER]))


def test_an_answer_goes_back_in_as_it_came_out(served: Served) -> None:
    """Text and calls of one turn are one message again, so that all of it is known."""
    served.answer(f"I will look.\n{CALL}\n{CALL}")
    first = served.respond("time?", tools=[TIME]).json()
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    assert len(calls) == 2
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}
        for call in calls
    ]
    served.answer("It is noon.")
    given = [USER, *first["output"], *outputs]
    second = served.respond(given, tools=[TIME]).json()
    assert second["output"][0]["content"][0]["text"] == "It is noon."
    usage = second["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] > first["usage"]["input_tokens"]


def test_an_assistants_message_at_the_end_goes_on(served: Served) -> None:
    begun = {"role": "assistant", "content": [{"type": "output_text", "text": "It is "}]}
    served.answer("noon.", b"It is ")
    body = served.respond([USER, begun]).json()
    assert body["output"][0]["content"][0]["text"] == "noon."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "input"),
        ([], "input"),
        (5, "input"),
        ([{"role": "robot", "content": "x"}], "input[0].role"),
        ([{"role": "tool", "content": "x"}], "input[0].role"),
        ([{"content": "x"}], "input[0].role: needed"),
        ([USER, {"role": "user", "content": 5}], "input[1].content"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}],
            "input[0].content[0] is a part of type 'input_image' without a text",
        ),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "input_text, output_text"),
        ([{"type": "computer_call", "id": "x"}], "input[0].type"),
        ([USER, {"type": "item_reference", "id": "msg_1"}], "input[1] refers to an item"),
        ([USER, {"id": "msg_1"}], "input[1] refers to an item"),
        ([USER, OUTPUT], "no function_call before it has this call_id"),
        ([USER, FUNCTION_CALL, {**OUTPUT, "call_id": "call_9"}], "'call_9'"),
        ([USER, FUNCTION_CALL, {**OUTPUT, "output": None}], "input[2].output: needed"),
        ([USER, {**FUNCTION_CALL, "name": None}], "input[1].name: needed"),
        ([USER, {**FUNCTION_CALL, "arguments": None}], "input[1].arguments: needed"),
        ([USER, {**FUNCTION_CALL, "call_id": None}], "input[1].call_id: needed"),
        (
            [USER, FUNCTION_CALL, {**OUTPUT, "output": [{"type": "input_file"}]}],
            "input[2].output[0]",
        ),
        ([{"type": "reasoning", "summary": []}], "nothing but reasoning"),
    ],
    ids=lambda value: str(value)[-60:],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_read_says_where(
    served: Served, given: Any, words: str, stream: bool
) -> None:
    response = served.respond(given, stream=stream)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "input", "invalid_value")
    assert words in error["message"]
    assert not served.runner.passes


def test_input_is_needed(served: Served) -> None:
    response = served.client.post("/v1/responses", json={"model": "tiny"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "input")
    assert "needed, but missing" in error["message"]
