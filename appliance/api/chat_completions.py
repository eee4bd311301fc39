"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Response, Stream

from appliance.api.answers import begun, collected, grammar_for, head
from appliance.api.disconnect import unless_gone
from appliance.api.interleave import interleaved
from appliance.api.logprobs import ChatLogprobs, chat_logprobs
from appliance.api.parameters import CHAT_PARAMETERS, check_refused
from appliance.api.request_meter import OPERATION
from appliance.api.schemas import ChatCompletionRequest, messages_for_template
from appliance.api.sse import event_stream
from appliance.api.timings import Timings, timings_of
from appliance.api.usage import Usage, usage_of
from appliance.chat.completion import Completion, Delta
from appliance.service import Service


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """One answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


class DeltaMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a chunk adds to the message; the first one brings the role."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, kw_only=True):
    """One answer's part of a chunk."""

    index: int = 0
    delta: DeltaMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(msgspec.Struct, kw_only=True):
    """One event of a stream. `usage` is there when asked for, and then null in most chunks.

    `timings` come with the last one, when asked for.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


@post("/v1/chat/completions", status_code=200, tags=["generation"], opt={OPERATION: "chat"})
async def create_chat_completion(
    request: Request[Any, Any, Any],
    data: JSONBody[ChatCompletionRequest],
    service: NamedDependency[Service],
) -> Response[ChatCompletion] | Stream:
    """Answer a conversation, whole or as a stream of server-sent events."""
    completer = service.completer_for(data.model)
    check_refused(CHAT_PARAMETERS, msgspec.structs.asdict(data))
    options = data.options()
    completer.check_number(options.n, "n")
    messages = messages_for_template(data.messages, service.max_messages)
    grammar = await grammar_for(completer, data, request.receive)
    completions = completer.chat(messages, options, grammar)
    shared = head(service, "chatcmpl-")
    try:
        if data.stream:
            pieces = await unless_gone(request.receive, begun(interleaved(completions)))
            return event_stream(request, _chunks(shared, completions, pieces, data), completions)
        choices = await unless_gone(request.receive, _choices(completions, data))
    except BaseException:
        for completion in completions:
            completion.abort()
        raise
    whole = ChatCompletion(**shared, choices=choices, usage=usage_of(completions, options.n))
    if data.timings:
        whole.timings = timings_of(completions)
    return Response(whole)


async def _choices(completions: list[Completion], data: ChatCompletionRequest) -> list[ChatChoice]:
    choices = []
    for index, completion in enumerate(completions):
        answer = await collected(completion)
        assert answer.finish_reason is not None
        choices.append(
            ChatChoice(
                index=index,
                message=AnswerMessage(content=answer.text),
                logprobs=chat_logprobs(answer.tokens) if data.logprobs else None,
                finish_reason=answer.finish_reason.value,
            )
        )
    return choices


async def _chunks(
    shared: dict[str, Any],
    completions: list[Completion],
    pieces: AsyncIterator[tuple[int, Delta]],
    data: ChatCompletionRequest,
) -> AsyncIterator[ChatCompletionChunk]:
    begun_ones: set[int] = set()
    num_open = len(completions)
    async for index, delta in pieces:
        usage: Usage | msgspec.UnsetType | None = None if data.include_usage else msgspec.UNSET
        if data.usage_in_every_chunk:
            usage = usage_of(completions, len(completions))
        num_open -= delta.finish_reason is not None
        for choice in _chunk_choices(index, delta, begun_ones, data):
            chunk = ChatCompletionChunk(**shared, choices=[choice], usage=usage)
            if data.timings and not num_open and choice.finish_reason and not data.include_usage:
                chunk.timings = timings_of(completions)
            yield chunk
    if data.include_usage:
        usage = usage_of(completions, len(completions))
        last = ChatCompletionChunk(**shared, choices=[], usage=usage)
        if data.timings:
            last.timings = timings_of(completions)
        yield last


def _chunk_choices(
    index: int, delta: Delta, begun_ones: set[int], data: ChatCompletionRequest
) -> Iterator[ChunkChoice]:
    """A delta's parts: its text, with the role if it is the answer's first one, and its end."""
    logprobs = chat_logprobs(delta.tokens) if data.logprobs and delta.tokens else None
    if delta.text or index not in begun_ones:
        role = None if index in begun_ones else "assistant"
        begun_ones.add(index)
        message = DeltaMessage(role=role, content=delta.text)
        yield ChunkChoice(index=index, delta=message, logprobs=logprobs)
        logprobs = None
    if delta.finish_reason:
        reason = delta.finish_reason.value
        yield ChunkChoice(
            index=index, delta=DeltaMessage(), logprobs=logprobs, finish_reason=reason
        )
