"""From events to figures."""

import json

import pytest

from appliance.bench.reply import Reply, ReplyBuilder, StreamError, error_message
from appliance.bench.sse import Event


def chunk(finish_reason: str | None = None, **delta: object) -> Event:
    return Event(json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}))


def usage(**counts: object) -> Event:
    return Event(json.dumps({"choices": [], "usage": counts}))


def reply_of(*events: tuple[Event, float], error: str | None = None) -> Reply:
    builder = ReplyBuilder()
    for event, at_ms in events:
        builder.add(event, at_ms)
    return builder.build(end_ms=1000, error=error)


def test_the_figures_of_a_scripted_stream() -> None:
    reply = reply_of(
        (chunk(role="assistant", content=""), 1),
        (chunk(content="a"), 50),
        (chunk(content="b"), 60),
        (chunk(content=""), 65),
        (chunk(content="c"), 80),
        (chunk("stop"), 81),
        (usage(prompt_tokens=9, completion_tokens=4), 82),
        (Event("[DONE]"), 83),
    )
    assert reply.error is None
    assert reply.ttft_ms == 50
    assert reply.gaps_ms == [10, 20]
    assert reply.tpot_ms == 10  # 30 ms for the three tokens after the first
    assert reply.tokens_per_s == 50
    assert (reply.num_tokens, reply.counted_by, reply.num_prompt_tokens) == (4, "usage", 9)
    assert reply.num_cached_tokens is None
    assert (reply.text, reply.finish_reason) == ("abc", "stop")


def test_without_usage_chunks_are_counted_and_said_so() -> None:
    reply = reply_of((chunk(content="a b"), 1), (chunk("length", content="c"), 5))
    assert (reply.num_tokens, reply.counted_by, reply.tpot_ms) == (2, "chunks", 4)


def test_one_token_has_no_time_per_further_token() -> None:
    reply = reply_of((chunk("length", content="a"), 7))
    assert (reply.tpot_ms, reply.gaps_ms, reply.ttft_ms) == (None, [], 7)


@pytest.mark.parametrize(
    "delta",
    [{"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}, {"content": "x", "role": "a"}],
)
def test_what_counts_as_a_first_token(delta: dict[str, object]) -> None:
    assert reply_of((chunk(**delta), 3), (Event("[DONE]"), 4)).ttft_ms == 3


def test_a_server_that_reports_usage_all_along_is_counted_by_the_last() -> None:
    both = {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 1}}
    reply = reply_of(
        (Event(json.dumps(both)), 1),
        (usage(completion_tokens=2, prompt_tokens_details={"cached_tokens": 5}), 2),
        (Event("[DONE]"), 3),
    )
    assert (reply.num_tokens, reply.num_cached_tokens) == (2, 5)


@pytest.mark.parametrize("bad", [True, -1, "7", None, 1.5])
def test_counts_that_are_none(bad: object) -> None:
    reply = reply_of((chunk("stop", content="a"), 1), (usage(completion_tokens=bad), 2))
    assert reply.counted_by == "chunks"


def test_failures_that_http_does_not_show() -> None:
    assert reply_of((Event("[DONE]"), 1)).error == "the answer was empty"
    assert reply_of((chunk("stop"), 1)).error == "the answer was empty"
    assert reply_of((chunk(content="a"), 1)).error == "the stream ended before the answer did"
    assert reply_of(error="HTTP 500: x").error == "HTTP 500: x"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event("{"), "an event is no JSON: '{'"),
        (Event("[1]"), "an event is no object: '[1]'"),
        (Event('{"error": {"message": "a\\nb"}}'), "error in the stream: a b"),
        (Event('{"message": "dead"}', "error"), "error in the stream: dead"),
    ],
)
def test_events_that_end_the_answer(event: Event, expected: str) -> None:
    with pytest.raises(StreamError) as caught:
        ReplyBuilder().add(event, 1)
    assert str(caught.value) == expected


@pytest.mark.parametrize("data", ["{}", '{"choices": null}', '{"choices": [7]}', '{"choices": []}'])
def test_events_without_a_choice_are_passed_over(data: str) -> None:
    assert reply_of((Event(data), 1), (chunk("stop", content="a"), 2)).chunk_ms == (2,)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "a"}}, "a"),
        ({"error": "b"}, "b"),
        ({"detail": "c"}, "c"),
        ({"object": "error", "message": "d"}, "d"),
        ("e\n\nf", "e f"),
        ({"error": {"code": 3}}, "{'code': 3}"),
        ("x" * 999, "x" * 200),
    ],
)
def test_error_bodies(body: object, expected: str) -> None:
    assert error_message(body) == expected
