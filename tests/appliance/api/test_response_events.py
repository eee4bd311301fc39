"""The stream of `POST /v1/responses`: which events, in which order, and that they add up."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.server import RESPONSES, Served, named_events, raw_request, wait_until

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = [{"type": "function", "name": "get_time"}, {"type": "function", "name": "get_day"}]
TIME = '<tool_call>\n{"name": "get_time", "arguments": {"in": "Rome"}}\n</tool_call>'
DAY = '<tool_call>\n{"name": "get_day", "arguments": {}}\n</tool_call>'

BEGIN = ["response.created", "response.in_progress"]
MESSAGE = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
CALL = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
NO_DELTA = [name for name in MESSAGE if not name.endswith("delta")]


@pytest.fixture
def served(roomy_server: Served) -> Served:
    return roomy_server


def streamed(response: Any) -> list[Any]:
    """All events, each of them one that OpenAI's own classes take, and numbered without a gap."""
    found = named_events(response)
    for number, event in enumerate(found):
        parsed = EVENT.validate_python(event, strict=True)
        assert parsed.type == event["type"]
        assert event["sequence_number"] == number
    return found


def order(found: list[Any]) -> list[str]:
    """The events' names, deltas in a row as one."""
    return [name for name, _ in groupby(event["type"] for event in found)]


def put_together(found: list[Any]) -> list[Any]:
    """The items that a client makes of the events; what an event says again must be the same."""
    items: list[Any] = []
    for event in found:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            assert event["item"]["status"] == "in_progress"
            items.append(event["item"])
            continue
        if "output_index" not in event:
            continue
        assert event["output_index"] == len(items) - 1
        item = items[-1]
        assert event.get("item_id", item["id"]) == item["id"]
        if kind == "response.content_part.added":
            assert event["content_index"] == len(item["content"]) == 0
            item["content"].append(event["part"])
        elif kind == "response.output_text.delta":
            item["content"][event["content_index"]]["text"] += event["delta"]
            item["content"][event["content_index"]]["logprobs"] += event["logprobs"]
        elif kind == "response.output_text.done":
            assert event["text"] == item["content"][0]["text"]
            assert event["logprobs"] == item["content"][0]["logprobs"]
        elif kind == "response.content_part.done":
            assert event["part"] == item["content"][0]
        elif kind == "response.function_call_arguments.delta":
            assert event["delta"]
            item["arguments"] += event["delta"]
        elif kind == "response.function_call_arguments.done":
            assert (event["name"], event["arguments"]) == (item["name"], item["arguments"])
        else:
            assert kind == "response.output_item.done"
            item["status"] = event["item"]["status"]
            assert event["item"] == item
    return items


ANSWERS = [
    ("hello", [*BEGIN, *MESSAGE]),
    ('你好 👩‍👩‍👧‍👦\r\n"quoted" data: [DONE]', [*BEGIN, *MESSAGE]),
    ("", [*BEGIN, *NO_DELTA]),
    (TIME, [*BEGIN, *CALL]),
    (f"Well.\n{TIME}", [*BEGIN, *MESSAGE, *CALL]),
    (f"Well.\n{TIME}\n{DAY} and more", [*BEGIN, *MESSAGE, *CALL, *CALL]),
]


@pytest.mark.parametrize(("text", "events"), ANSWERS)
def test_the_events_add_up_to_the_answer(served: Served, text: str, events: list[str]) -> None:
    served.answer(text)
    fields: dict[str, Any] = {"tools": TOOLS, "temperature": 0}
    found = streamed(served.respond(**fields, stream=True))
    assert order(found) == [*events, "response.completed"]
    created, last = found[0]["response"], found[-1]["response"]
    assert found[1]["response"] == created
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert put_together(found) == last["output"]
    assert last["status"] == "completed" and last["completed_at"] >= last["created_at"]
    changing = ("status", "completed_at", "output", "usage")
    assert {k: v for k, v in created.items() if k not in changing} == {
        k: v for k, v in last.items() if k not in changing
    }
    whole = served.respond(**fields).json()
    assert without_ids(whole["output"]) == without_ids(last["output"])
    assert whole["usage"]["output_tokens"] == last["usage"]["output_tokens"]
    assert whole.keys() == last.keys()


def without_ids(items: list[Any]) -> list[Any]:
    return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in items]


@pytest.mark.parametrize(
    ("text", "num_tokens", "events"),
    [
        ("hello", 3, [*BEGIN, *MESSAGE]),
        (TIME, TIME.index("Rome") + 2, [*BEGIN, *CALL]),
        (f"{DAY}\n{TIME}", len(DAY) + 1 + TIME.index("Rome") + 2, [*BEGIN, *CALL, *CALL]),
    ],
)
def test_an_answer_that_is_cut_is_incomplete(
    served: Served, text: str, num_tokens: int, events: list[str]
) -> None:
    served.answer(text)
    found = streamed(served.respond(tools=TOOLS, max_output_tokens=num_tokens, stream=True))
    assert order(found) == [*events, "response.incomplete"]
    last = found[-1]["response"]
    assert last["status"] == "incomplete"
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    statuses = [item["status"] for item in last["output"]]
    assert statuses == ["completed"] * (len(statuses) - 1) + ["incomplete"]
    assert put_together(found) == last["output"]


def test_log_probabilities_come_with_their_text(served: Served) -> None:
    include = ["message.output_text.logprobs"]
    found = streamed(served.respond(include=include, top_logprobs=1, stream=True))
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    for delta in deltas:
        assert "".join(token["token"] for token in delta["logprobs"]) == delta["delta"]
    assert put_together(found) == found[-1]["response"]["output"]
    assert len(found[-1]["response"]["output"][0]["content"][0]["logprobs"]) == 5


@pytest.mark.parametrize("given", ["hi", f"Well, <toolbox>. {TIME}" * 2], ids=["new", "drafts"])
@pytest.mark.parametrize(
    ("said", "text"),
    [
        (f"Well, <toolbox>. {TIME}", "Well, <toolbox>."),
        ("Well, <toolbox>. ", "Well, <toolbox>. "),
        (b"Well, \xf0\x9f", "Well, "),
        (TIME, None),
    ],
)
def test_log_probabilities_of_text_alone(
    served: Served, given: str, said: str | bytes, text: str | None
) -> None:
    """Where calls may follow, tokens wait until it is known what they are."""
    fields: dict[str, Any] = {"tools": TOOLS, "include": ["message.output_text.logprobs"]}
    served.answer(said)
    answers = [
        served.respond(given, **fields).json()["output"],
        streamed(served.respond(given, **fields, stream=True))[-1]["response"]["output"],
    ]
    for output in answers:
        messages = [item for item in output if item["type"] == "message"]
        assert len(messages) == (text is not None)
        for message in messages:
            (part,) = message["content"]
            written = b"".join(bytes(token["bytes"]) for token in part["logprobs"])
            assert part["text"].rstrip("\ufffd") == text
            assert written == (said if isinstance(said, bytes) else part["text"].encode())
    assert without_ids(answers[0]) == without_ids(answers[1])


def test_timings_come_with_the_last_event(served: Served) -> None:
    found = streamed(served.respond(timings=True, stream=True))
    assert "timings" not in found[0]["response"]
    assert found[-1]["response"]["timings"]["predicted_n"] == 5


def test_the_streams_headers(served: Served) -> None:
    response = served.respond(stream=True)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]


def test_nothing_comes_before_the_first_text(served: Served) -> None:
    """The time to the first byte is the time to the first text, as it is in a chat."""
    served.runner.gate.clear()
    body = {"model": "tiny", "input": "hi", "stream": True}
    try:
        with raw_request(served.address, RESPONSES, body) as connection:
            wait_until(lambda: served.num_open == 1)
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            served.runner.gate.set()
            connection.settimeout(5)
            seen = b""
            while b"response.completed" not in seen:
                seen += connection.recv(65536)
            assert seen.index(b"response.created") < seen.index(b'"delta":"h')
    finally:
        served.runner.gate.set()


def test_the_first_text_comes_before_the_answer_is_done(served: Served) -> None:
    served.answer_forever()
    served.runner.step_s = 0.005
    body = {"model": "tiny", "input": "hi", "stream": True}
    with raw_request(served.address, RESPONSES, body) as connection:
        seen = b""
        while seen.count(b'"delta":"x') < 3:
            seen += connection.recv(65536)
        assert served.num_open == 1


def failed(found: list[Any], code: str) -> Any:
    """The response of a stream that ended with an error; the error is told in every form."""
    *others, error, last = found
    assert error["type"] == "error" and last["type"] == "response.failed"
    assert error["error"].keys() == {"message", "type", "param", "code"}
    assert error["error"].items() >= {k: error[k] for k in ("message", "param", "code")}.items()
    assert error["code"] == code and error["error"]["type"] == "server_error"
    response = last["response"]
    assert response["status"] == "failed" and response["completed_at"] is None
    assert response["error"] == {"code": "server_error", "message": error["message"]}
    (item,) = response["output"]
    (written,) = put_together(others)
    assert item == {**written, "status": "incomplete"}
    return response


@pytest.mark.parametrize("text", ["xxxxxxxxxxxxxxxx", TIME])
def test_an_error_behind_the_first_text(tiny_model_dir: Path, text: str) -> None:
    num_passes = 4 if text[0] == "x" else TIME.index("Rome") + 8
    config = Config(engine=EngineConfig(prompt_lookup=False))
    with Served(tiny_model_dir, FakeRunner(fail_after=num_passes), config) as served:
        served.answer(text)
        response = failed(streamed(served.respond(tools=TOOLS, stream=True)), "engine_dead")
        assert response["usage"]["output_tokens"] > 0


def test_a_deadline_behind_the_first_text(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=0.1))
    with Served(tiny_model_dir, FakeRunner(step_s=0.01), config) as served:
        served.answer_forever()
        response = failed(streamed(served.respond(stream=True)), "deadline_exceeded")
        assert set(response["output"][0]["content"][0]["text"]) == {"x"}
        served.check_no_leak()


def test_an_error_before_the_first_text_has_a_status(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        response = served.respond(stream=True)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_dead"
