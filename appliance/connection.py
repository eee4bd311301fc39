"""Uvicorn's HTTP connection, with an end to its patience."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from appliance.config import ServerConfig


class Connection(HttpToolsProtocol):
    """Closes itself when its client takes too long.

    Uvicorn by itself limits the time between two requests only: who opens connections and sends
    half a request, or never reads an answer, would hold them for ever. Here a request's headers
    must be complete `header_timeout_s` after they began (the first ones: after the connection was
    made), and neither a body nor an answer may stand still for `idle_timeout_s`.
    """

    header_timeout_s: float
    idle_timeout_s: float

    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_client(self.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_headers:
            self._in_headers = True
            self._wait_for_client(self.header_timeout_s)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_headers = False
        self._wait_for_client(self.idle_timeout_s)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._wait_for_client(self.idle_timeout_s)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Uvicorn has stopped its own clock. What came may be no request: the rest of a body that
        # was answered already, or an empty line.
        if self._reading is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_client(self.idle_timeout_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.idle_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _wait_for_client(self, timeout_s: float) -> None:
        self._stop_waiting()
        self._reading = self.loop.call_later(timeout_s, self._give_up, timeout_s)

    def _stop_waiting(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _give_up(self, timeout_s: float) -> None:
        if self.flow.read_paused:
            self._wait_for_client(timeout_s)  # it is we who do not read
        else:
            self.transport.close()


def connection_class(config: ServerConfig) -> type[Connection]:
    """The class of connections that wait as long as `config` says; uvicorn makes the objects."""

    class _Configured(Connection):
        header_timeout_s = config.header_timeout_s
        idle_timeout_s = config.idle_timeout_s

    return _Configured
