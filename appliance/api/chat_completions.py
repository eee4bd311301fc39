"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Response, Stream

from appliance.api.answers import begun, collected, grammar_for, head, usage_of
from appliance.api.disconnect import unless_gone
from appliance.api.parameters import CHAT_PARAMETERS, check_refused
from appliance.api.request_meter import OPERATION
from appliance.api.schemas import ChatCompletionRequest, Usage
from appliance.api.sse import event_stream
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
    logprobs: None = None
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


class DeltaMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a chunk adds to the message; the first one brings the role."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, kw_only=True):
    """One answer's part of a chunk."""

    index: int = 0
    delta: DeltaMessage
    logprobs: None = None
    finish_reason: str | None = None


class ChatCompletionChunk(msgspec.Struct, kw_only=True):
    """One event of a stream. `usage` is there when asked for: null, but in the last chunk."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


@post("/v1/chat/completions", status_code=200, tags=["generation"], opt={OPERATION: "chat"})
async def create_chat_completion(
    request: Request[Any, Any, Any],
    data: JSONBody[ChatCompletionRequest],
    service: NamedDependency[Service],
) -> Response[ChatCompletion] | Stream:
    """Answer a conversation, whole or as a stream of server-sent events."""
    completer = service.completer_for(data.model)
    check_refused(CHAT_PARAMETERS, msgspec.structs.asdict(data))
    options = data.options(data.max_completion_tokens or data.max_tokens)
    messages = data.for_template(service.max_messages)
    grammar = await grammar_for(completer, data, request.receive)
    completion = completer.chat(messages, options, grammar)
    shared = head(service, "chatcmpl-")
    try:
        if data.stream:
            deltas = await unless_gone(request.receive, begun(completion.deltas()))
            chunks = _chunks(shared, completion, deltas, data.include_usage)
            return event_stream(request, chunks, [completion])
        text, reason = await unless_gone(request.receive, collected(completion))
    except BaseException:
        completion.abort()
        raise
    choice = ChatChoice(message=AnswerMessage(content=text), finish_reason=reason)
    return Response(ChatCompletion(**shared, choices=[choice], usage=usage_of([completion])))


async def _chunks(
    shared: dict[str, Any],
    completion: Completion,
    deltas: AsyncIterator[Delta],
    include_usage: bool,
) -> AsyncIterator[ChatCompletionChunk]:
    usage = None if include_usage else msgspec.UNSET

    def chunk(delta: DeltaMessage, finish_reason: str | None = None) -> ChatCompletionChunk:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason)
        return ChatCompletionChunk(**shared, choices=[choice], usage=usage)

    role: str | None = "assistant"
    async for delta in deltas:
        if delta.text or role:
            yield chunk(DeltaMessage(role=role, content=delta.text))
            role = None
        if delta.finish_reason:
            yield chunk(DeltaMessage(), delta.finish_reason.value)
    if include_usage:
        yield ChatCompletionChunk(**shared, choices=[], usage=usage_of([completion]))
