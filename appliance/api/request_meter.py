"""Times and counts every HTTP request, from outside of everything that could go wrong in one.

What the conventions call the time to the first token is taken where it ends: when the first text of
a stream was handed to the connection.
"""

from __future__ import annotations

import time

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from appliance.api.exceptions import ANSWERS, ERROR_CODE, LEFT
from appliance.metrics import Metrics

OPERATION = "gen_ai.operation.name"
"""The key under which a generating route's `opt` holds its operation's name."""

_UNMATCHED = "unmatched"
_CLIENT_LEFT = 499


class RequestMeter:
    """An ASGI application around the routes, that changes nothing."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        refusals = {a.code for a in ANSWERS.values() if a.code and _refuses(a.status)}
        metrics.http.expect_reasons(refusals)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        reading = _Reading(scope, self._metrics)

        async def metered_send(message: Message) -> None:
            await send(message)
            reading.sent(message)

        try:
            await self._app(scope, receive, metered_send)
        finally:
            reading.over()


class _Reading:
    """One request. What its route is, the router writes into the scope."""

    def __init__(self, scope: HTTPScope, metrics: Metrics) -> None:
        self._began_at = time.perf_counter()
        self._scope = scope
        self._metrics = metrics
        self._status = _CLIENT_LEFT
        self._streaming = False
        self._complete = False
        self._over = False

    def sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            # Only a stream comes in parts, and its first part is the first text.
            if message["more_body"] and not self._streaming:
                self._streaming = True
                self._first_text_sent()
            self._complete = not message["more_body"]
            if self._complete:
                self.over()

    def over(self) -> None:
        """The last byte is sent, or will never be. Idempotent."""
        if self._over:
            return
        self._over = True
        metrics = self._metrics
        metrics.http.responded(self._scope.get("path_template") or _UNMATCHED, self._status)
        operation = self._operation
        if operation is None:
            return
        # The code a client was told, or would have been.
        error_type = self._scope["state"].get(ERROR_CODE, "" if self._complete else LEFT)
        metrics.gen_ai.request_ended(operation, time.perf_counter() - self._began_at, error_type)
        if _refuses(self._status):
            metrics.http.rejected(error_type)

    @property
    def _operation(self) -> str | None:
        handler = self._scope.get("route_handler")
        return handler.opt.get(OPERATION) if handler else None

    def _first_text_sent(self) -> None:
        if operation := self._operation:
            passed = time.perf_counter() - self._began_at
            self._metrics.gen_ai.time_to_first_token[operation].observe(passed)


def _refuses(status: int) -> bool:
    """Whether an answer of `status` says that nothing was computed."""
    return status == 503 or 400 <= status < _CLIENT_LEFT
