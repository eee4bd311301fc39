"""Gives every request an id: the client's own `X-Request-Id`, or a new one; answers repeat it."""

from __future__ import annotations

import re
import uuid

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "request_id"
"""The key of `scope["state"]` under which the id stands."""

_HEADER = b"x-request-id"
# What may stand in a log line and a header without harm.
_USABLE = re.compile(rb"[\w.:+/=@-]{1,128}", re.ASCII)


class RequestIds:
    """An ASGI application around the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        request_id = given if _USABLE.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()
        scope["state"][REQUEST_ID] = request_id.decode()

        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, named_send)
