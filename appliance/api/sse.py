"""Server-sent events as OpenAI's clients read them: `data: JSON`, blank line, a last `[DONE]`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from appliance.api.exceptions import error_body, note_error
from appliance.api.request_id import REQUEST_ID
from appliance.chat.completion import Completion

_DONE = b"data: [DONE]\n\n"
_HEADERS = {
    "Cache-Control": "no-cache",
    # nginx would collect the stream otherwise.
    "X-Accel-Buffering": "no",
}


def event_stream(
    request: Request[Any, Any, Any], chunks: AsyncIterator[Any], completions: list[Completion]
) -> Stream:
    """A streaming response of `chunks`, structs that msgspec encodes, to `request`.

    `completions` are aborted when the response is over, however it ended. An iterator that was
    never started runs none of its `finally` blocks, so that is not left to `chunks` alone.
    """

    async def abort_all() -> None:
        for completion in completions:
            completion.abort()

    return Stream(
        _events(request, chunks),
        status_code=200,
        media_type="text/event-stream",
        headers=_HEADERS,
        background=BackgroundTask(abort_all),
    )


async def _events(
    request: Request[Any, Any, Any], chunks: AsyncIterator[Any]
) -> AsyncIterator[bytes]:
    encode = msgspec.json.Encoder().encode
    try:
        async for chunk in chunks:
            yield b"data: " + encode(chunk) + b"\n\n"
    # The status line is long gone: the error can only be told as an event.
    except Exception as error:
        body = error_body(error, request.scope["state"][REQUEST_ID])
        note_error(request, body)
        yield b"data: " + encode(body) + b"\n\n"
    yield _DONE
