"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Response, Stream

from appliance.api.answers import answers_to, begun, collected, head, wire_reason
from appliance.api.disconnect import unless_gone
from appliance.api.documented import DOCUMENTED, GENERATES, Documented
from appliance.api.interleave import interleaved
from appliance.api.logprobs import ChatLogprobs, chat_logprobs
from appliance.api.parameters import CHAT_PARAMETERS, check_refused
from appliance.api.request_meter import OPERATION
from appliance.api.schemas import ChatCompletionRequest
from appliance.api.sse import event_stream
from appliance.api.timings import Timings, timings_of
from appliance.api.tools import ToolCall, ToolCallFragment, fragment, whole_calls
from appliance.api.usage import Usage, usage_of
from appliance.chat.completion import Completion, Delta
from appliance.engine.sequence import FinishReason
from appliance.service import Service

WireReason = Literal["stop", "length", "tool_calls"]


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, kw_only=True):
    """One answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: WireReason


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
    tool_calls: list[ToolCallFragment] | None = None


class ChunkChoice(msgspec.Struct, kw_only=True):
    """One answer's part of a chunk."""

    index: int = 0
    delta: DeltaMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: WireReason | None = None


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


_QUESTION = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
_DOCUMENTED = Documented(
    ChatCompletion,
    events=(ChatCompletionChunk,),
    errors=GENERATES,
    parameters=CHAT_PARAMETERS,
    examples={"whole": _QUESTION, "streamed": {**_QUESTION, "stream": True}},
)


@post(
    "/v1/chat/completions",
    status_code=200,
    tags=["generation"],
    opt={OPERATION: "chat", DOCUMENTED: _DOCUMENTED},
)
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
    completions = await answers_to(
        data.conversation.for_template(service.max_messages),
        options,
        data.tool_use(),
        data.output_format(),
        completer=completer,
        receive=request.receive,
        end=data.conversation.end,
    )
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
        message = AnswerMessage(content=answer.text)
        if answer.calls:
            message.content = answer.text or None
            message.tool_calls = whole_calls(answer.calls)
        choices.append(
            ChatChoice(
                index=index,
                message=message,
                logprobs=chat_logprobs(answer.tokens) if data.logprobs else None,
                finish_reason=_wire_reason(answer.finish_reason, has_calls=bool(answer.calls)),
            )
        )
    return choices


async def _chunks(
    shared: dict[str, Any],
    completions: list[Completion],
    pieces: AsyncIterator[tuple[int, Delta]],
    data: ChatCompletionRequest,
) -> AsyncIterator[ChatCompletionChunk]:
    answers = [_StreamedAnswer(index, data) for index in range(len(completions))]
    num_open = len(completions)
    async for index, delta in pieces:
        usage: Usage | msgspec.UnsetType | None = None if data.include_usage else msgspec.UNSET
        if data.usage_in_every_chunk:
            usage = usage_of(completions, len(completions))
        num_open -= delta.finish_reason is not None
        for choice in answers[index].choices(delta):
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


class _StreamedAnswer:
    """One answer on its way, chunk by chunk."""

    def __init__(self, index: int, data: ChatCompletionRequest) -> None:
        self._index = index
        self._with_logprobs = bool(data.logprobs)
        self._role: str | None = "assistant"
        self._has_calls = False
        self._logprobs: ChatLogprobs | None = None

    def choices(self, delta: Delta) -> Iterator[ChunkChoice]:
        """A delta's parts: text, pieces of calls, the end. The answer's first one has the role, the
        delta's first one its log-probabilities."""
        if self._with_logprobs and delta.tokens:
            self._logprobs = chat_logprobs(delta.tokens)
        if delta.text or (self._role and not delta.calls):
            yield self._choice(DeltaMessage(role=self._role, content=delta.text))
        for call in delta.calls:
            self._has_calls = True
            yield self._choice(DeltaMessage(role=self._role, tool_calls=[fragment(call)]))
        if delta.finish_reason:
            reason = _wire_reason(delta.finish_reason, has_calls=self._has_calls)
            yield self._choice(DeltaMessage(), reason)

    def _choice(
        self, message: DeltaMessage, finish_reason: WireReason | None = None
    ) -> ChunkChoice:
        logprobs, self._logprobs, self._role = self._logprobs, None, None
        return ChunkChoice(
            index=self._index, delta=message, logprobs=logprobs, finish_reason=finish_reason
        )


def _wire_reason(reason: FinishReason, *, has_calls: bool) -> WireReason:
    return "tool_calls" if has_calls and reason is FinishReason.STOP else wire_reason(reason)
