"""Pieces of an answer to the items of a response, and to the events that tell of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from appliance.api import response_events as events
from appliance.api.logprobs import TokenLogprob, chat_logprobs
from appliance.api.response_object import (
    FunctionCall,
    IncompleteDetails,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    ResponseError,
    ResponseObject,
    response_usage,
)
from appliance.api.schemas import ErrorBody
from appliance.api.timings import timings_of
from appliance.chat.completion import Completion, Delta
from appliance.chat.scored_tokens import ScoredToken
from appliance.chat.tool_parser import CallDelta
from appliance.engine.sequence import FinishReason

E = TypeVar("E", bound=events.Event)


class ResponseWriter:
    """One response on its way. `shared` are the fields that it has from the beginning on.

    The events of `begin`, of `feed` for each delta in turn and of `end` are a whole stream; who
    wants the response alone drops them. An iterator must be read to its end before the next call.
    """

    def __init__(
        self, shared: dict[str, Any], completion: Completion, *, with_timings: bool
    ) -> None:
        self._shared = shared
        self._completion = completion
        self._with_timings = with_timings
        self._num_events = 0
        self._done: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._written: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._tokens: list[ScoredToken] = []
        self._num_text = 0
        self._is_cut = False

    def begin(self) -> Iterator[events.Event]:
        """What comes before everything else."""
        response = ResponseObject(**self._shared, status="in_progress", output=[])
        yield self._event(events.ResponseCreated, response=response)
        yield self._event(events.ResponseInProgress, response=response)

    def feed(self, delta: Delta) -> Iterator[events.Event]:
        """What `delta` adds."""
        self._is_cut = delta.finish_reason is FinishReason.LENGTH
        self._tokens += delta.tokens
        has_calls = bool(delta.calls) or isinstance(self._open, FunctionCall)
        ends_text = delta.finish_reason is not None and not has_calls
        # At the end also tokens that came to no text, and the message of an answer without any.
        if delta.text or (ends_text and (self._tokens or self._open is None)):
            yield from self._add_text(delta.text, is_last=ends_text)
        for call in delta.calls:
            yield from self._add_call(call)
        if delta.finish_reason is not None:
            yield from self._close("incomplete" if self._is_cut else "completed")

    def end(self) -> events.Event:
        """The last event, when the last delta was fed."""
        kind = events.ResponseIncomplete if self._is_cut else events.ResponseCompleted
        return self._event(kind, response=self.response())

    def response(self) -> ResponseObject:
        """The whole response, when the last delta was fed."""
        response = ResponseObject(
            **self._shared,
            status="incomplete" if self._is_cut else "completed",
            completed_at=None if self._is_cut else int(time.time()),
            incomplete_details=IncompleteDetails() if self._is_cut else None,
            output=self._done,
            usage=response_usage(self._completion),
        )
        if self._with_timings:
            response.timings = timings_of([self._completion])
        return response

    def failed(self, body: ErrorBody) -> Iterator[events.Event]:
        """What comes instead of all that would have followed: the error, and what there is."""
        error = body.error
        yield self._event(
            events.ErrorEvent,
            code=error.code,
            message=error.message,
            param=error.param,
            error=error,
        )
        partial = [] if self._open is None else [self._as_written(self._open, "incomplete")]
        response = ResponseObject(
            **self._shared,
            status="failed",
            error=ResponseError("server_error", error.message),
            output=[*self._done, *partial],
            usage=response_usage(self._completion),
        )
        yield self._event(events.ResponseFailed, response=response)

    def _add_text(self, text: str, *, is_last: bool) -> Iterator[events.Event]:
        if self._open is None:
            message = OutputMessage(id=_id("msg"), status="in_progress", content=[])
            yield self._opened(message)
            yield self._piece(events.ContentPartAdded, message, part=OutputText(text=""))
        item = self._open
        assert isinstance(item, OutputMessage)
        self._written.append(text)
        self._num_text += len(text)
        logprobs = chat_logprobs(self._due(is_last=is_last)).content
        self._logprobs += logprobs
        if text or logprobs:
            yield self._piece(events.TextDelta, item, delta=text, logprobs=logprobs)

    def _due(self, *, is_last: bool) -> list[ScoredToken]:
        """The tokens that begin in the text so far; those behind it may be a call's."""
        due = [t for t in self._tokens if is_last or t.offset < self._num_text]
        self._tokens = self._tokens[len(due) :]
        return due

    def _add_call(self, call: CallDelta) -> Iterator[events.Event]:
        if call.name is not None:
            assert call.id is not None
            yield from self._close("completed")
            begun = FunctionCall(
                id=_id("fc"), status="in_progress", call_id=call.id, name=call.name, arguments=""
            )
            yield self._opened(begun)
        item = self._open
        assert isinstance(item, FunctionCall)
        if call.arguments:
            self._written.append(call.arguments)
            yield self._piece(events.ArgumentsDelta, item, delta=call.arguments)

    def _opened(self, item: OutputItem) -> events.Event:
        self._open, self._written, self._logprobs = item, [], []
        return self._event(events.OutputItemAdded, output_index=len(self._done), item=item)

    def _close(self, status: ItemStatus) -> Iterator[events.Event]:
        """The item that is open, if one is, gets no more."""
        item = self._open
        if item is None:
            return
        done = self._as_written(item, status)
        if isinstance(done, OutputMessage):
            (part,) = done.content
            yield self._piece(events.TextDone, item, text=part.text, logprobs=part.logprobs)
            yield self._piece(events.ContentPartDone, item, part=part)
        else:
            yield self._piece(events.ArgumentsDone, item, name=done.name, arguments=done.arguments)
        yield self._event(events.OutputItemDone, output_index=len(self._done), item=done)
        self._done.append(done)
        self._open = None

    def _as_written(self, item: OutputItem, status: ItemStatus) -> OutputItem:
        text = "".join(self._written)
        if isinstance(item, FunctionCall):
            return msgspec.structs.replace(item, status=status, arguments=text)
        part = OutputText(text=text, logprobs=self._logprobs)
        return msgspec.structs.replace(item, status=status, content=[part])

    def _piece(self, kind: type[E], item: OutputItem, **fields: Any) -> E:
        return self._event(kind, output_index=len(self._done), item_id=item.id, **fields)

    def _event(self, kind: type[E], **fields: Any) -> E:
        event = kind(sequence_number=self._num_events, **fields)
        self._num_events += 1
        return event


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
