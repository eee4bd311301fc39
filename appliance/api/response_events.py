"""The events of a streamed response, as OpenAI names them. Each has its number in the stream."""

from __future__ import annotations

import msgspec

from appliance.api.logprobs import TokenLogprob
from appliance.api.response_object import OutputItem, OutputText, ResponseObject
from appliance.api.schemas import ErrorDetail


class Event(msgspec.Struct, tag_field="type", kw_only=True):
    """What all have in common."""

    sequence_number: int


class _ResponseEvent(Event, kw_only=True):
    response: ResponseObject


class ResponseCreated(_ResponseEvent, tag="response.created"):
    """The first one; it comes with the first text, so that an error before that has a status."""


class ResponseInProgress(_ResponseEvent, tag="response.in_progress"):
    """The second one."""


class ResponseCompleted(_ResponseEvent, tag="response.completed"):
    """The last one of an answer that came to its own end."""


class ResponseIncomplete(_ResponseEvent, tag="response.incomplete"):
    """The last one of an answer that was cut."""


class ResponseFailed(_ResponseEvent, tag="response.failed"):
    """The last one behind an `error`; what was written until then is in it."""


class ErrorEvent(Event, tag="error", kw_only=True):
    """An error behind the first text, in both forms that OpenAI has for it.

    Flat, as it documents it; and under `error`, as it sends it and as its clients, which raise it
    then, look for it. It is also the body that the error would have had before.
    """

    code: str | None
    message: str
    param: str | None
    error: ErrorDetail


class _ItemEvent(Event, kw_only=True):
    output_index: int


class OutputItemAdded(_ItemEvent, tag="response.output_item.added", kw_only=True):
    """A message or a call begins."""

    item: OutputItem


class OutputItemDone(_ItemEvent, tag="response.output_item.done", kw_only=True):
    """A message or a call is as it will be."""

    item: OutputItem


class _PieceEvent(_ItemEvent, kw_only=True):
    item_id: str


class ArgumentsDelta(_PieceEvent, tag="response.function_call_arguments.delta", kw_only=True):
    """More of a call's arguments."""

    delta: str


class ArgumentsDone(_PieceEvent, tag="response.function_call_arguments.done", kw_only=True):
    """All of a call's arguments."""

    name: str
    arguments: str


class _ContentEvent(_PieceEvent, kw_only=True):
    content_index: int = 0


class ContentPartAdded(_ContentEvent, tag="response.content_part.added", kw_only=True):
    """A message's text begins."""

    part: OutputText


class ContentPartDone(_ContentEvent, tag="response.content_part.done", kw_only=True):
    """A message's text is as it will be."""

    part: OutputText


class TextDelta(_ContentEvent, tag="response.output_text.delta", kw_only=True):
    """More of a message's text."""

    delta: str
    logprobs: list[TokenLogprob]


class TextDone(_ContentEvent, tag="response.output_text.done", kw_only=True):
    """All of a message's text."""

    text: str
    logprobs: list[TokenLogprob]


EVENTS: tuple[type[Event], ...] = (
    ResponseCreated,
    ResponseInProgress,
    OutputItemAdded,
    ContentPartAdded,
    TextDelta,
    TextDone,
    ContentPartDone,
    ArgumentsDelta,
    ArgumentsDone,
    OutputItemDone,
    ResponseCompleted,
    ResponseIncomplete,
    ErrorEvent,
    ResponseFailed,
)
"""All that a stream may hold."""
