"""Server-sent events as OpenAI's clients read them, in the older form and in that of responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from appliance.api.exceptions import error_body, note_error
from appliance.api.request_id import REQUEST_ID
from appliance.api.schemas import ErrorBody
from appliance.chat.completion import Completion

_HEADERS = {
    "Cache-Control": "no-cache",
    # nginx would collect the stream otherwise.
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class EventForm:
    """How a stream is written: an event's bytes, the events that tell of an error, the last bytes.

    The status line is long gone when something goes wrong: it can only be told as an event.
    """

    encode: Callable[[Any], bytes]
    failed: Callable[[ErrorBody], Iterable[Any]]
    end: bytes


_to_json = msgspec.json.Encoder().encode


def _data(event: Any) -> bytes:
    return b"data: " + _to_json(event) + b"\n\n"


def _named(event: Any) -> bytes:
    return f"event: {event.__struct_config__.tag}\n".encode() + _data(event)


CHUNKS = EventForm(_data, lambda body: (body,), b"data: [DONE]\n\n")
"""`data: JSON`, blank line, a last `[DONE]`; an error has the body that it always has."""


def named_events(failed: Callable[[ErrorBody], Iterable[Any]]) -> EventForm:
    """Events are structs whose tag is their name, the last one says by itself that it is the last.

    `failed` gives those that tell of an error.
    """
    return EventForm(_named, failed, b"")


def event_stream(
    request: Request[Any, Any, Any],
    chunks: AsyncIterator[Any],
    completions: list[Completion],
    form: EventForm = CHUNKS,
) -> Stream:
    """A streaming response of `chunks`, structs that msgspec encodes, to `request`.

    `completions` are aborted when the response is over, however it ended. An iterator that was
    never started runs none of its `finally` blocks, so that is not left to `chunks` alone.
    """

    async def abort_all() -> None:
        for completion in completions:
            completion.abort()

    return Stream(
        _events(request, chunks, form),
        status_code=200,
        media_type="text/event-stream",
        headers=_HEADERS,
        background=BackgroundTask(abort_all),
    )


async def _events(
    request: Request[Any, Any, Any], chunks: AsyncIterator[Any], form: EventForm
) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield form.encode(chunk)
    except Exception as error:
        body = error_body(error, request.scope["state"][REQUEST_ID])
        note_error(request, body)
        for event in form.failed(body):
            yield form.encode(event)
    if form.end:
        yield form.end
