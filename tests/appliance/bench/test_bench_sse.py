"""The parser of server-sent events."""

import pytest

from appliance.bench.sse import Event, SSEParser

STREAM = (
    "\ufeff: welcome\n\n"
    "data: 你好\n\n"
    "event: error\r\ndata: one\r\ndata: two\r\n\r\n"
    "data:no space\rdata:  two spaces\r\r"
    "id: 7\nretry: 1\nunknown\ndata\n\n"
    "event: nothing\n\n"
    "data: 😀\n\n"
    "data: [DONE]\n\ndata: unfinished\n"
)
EVENTS = [
    Event("你好"),
    Event("one\ntwo", "error"),
    Event("no space\n two spaces"),
    Event(""),
    Event("😀"),
    Event("[DONE]"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_any_split_gives_the_same_events(size: int) -> None:
    parser, data = SSEParser(), STREAM.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


def test_an_event_is_given_with_its_last_byte() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: x\r\n") == []
    assert parser.feed(b"\r") == [Event("x")]
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: y\n") == []
    assert parser.feed(b"\n") == [Event("y")]


def test_broken_utf8_does_not_end_the_stream() -> None:
    assert SSEParser().feed(b"data: \xff\n\n") == [Event("\ufffd")]
