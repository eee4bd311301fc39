"""Server-sent events: bytes in, events out. No I/O, no clock.

    : a comment, ignored
    event: name              optional
    data: one line           several `data` lines are joined by a newline
                             an empty line ends the event

Lines end with LF, CR or CRLF. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from typing import NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event; `name` is "message" when the stream gives none."""

    data: str
    name: str = "message"


class SSEParser:
    """Feed it a stream in pieces of any size; an event comes out as soon as its last byte is in."""

    def __init__(self) -> None:
        self._rest = b""  # of a line whose end has not come; never holds a CR or LF
        self._after_cr = False  # a LF that comes next belongs to a line that was ended already
        self._at_start = True
        self._data: list[str] = []
        self._name = ""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes. An unfinished one is never given (the standard)."""
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        text = self._rest + piece
        *lines, self._rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return [event for line in lines if (event := self._end_line(line)) is not None]

    def _end_line(self, line: bytes) -> Event | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._end_event()
        name, _, value = line.decode("utf-8", errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        return None  # `id`, `retry`, comments (an empty name) and unknown fields mean nothing here

    def _end_event(self) -> Event | None:
        event = Event("\n".join(self._data), self._name or "message") if self._data else None
        self._data, self._name = [], ""
        return event
