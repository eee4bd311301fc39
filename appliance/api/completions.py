"""`POST /v1/completions`: a text goes on as it is, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Response, Stream

from appliance.api.answers import begun, collected, grammar_for, head, wire_reason
from appliance.api.disconnect import unless_gone
from appliance.api.documented import DOCUMENTED, GENERATES, Documented
from appliance.api.interleave import interleaved
from appliance.api.logprobs import TextLogprobs, text_logprobs
from appliance.api.parameters import COMPLETION_PARAMETERS, check_refused
from appliance.api.request_meter import OPERATION
from appliance.api.schemas import CompletionRequest
from appliance.api.sse import event_stream
from appliance.api.timings import Timings, timings_of
from appliance.api.usage import Usage, usage_of
from appliance.chat.completer import Completer
from appliance.chat.completion import Completion, Delta
from appliance.chat.grammar import Grammar
from appliance.chat.options import CompletionOptions
from appliance.service import Service


class TextChoice(msgspec.Struct, kw_only=True):
    """An answer, or a chunk of it. `index` counts the answers, those to the first prompt first."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class TextCompletion(msgspec.Struct, kw_only=True):
    """The whole answer, or one chunk of it; in a stream `usage` is there only when asked for."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


_BEGINNING = {"prompt": "The sky is"}
_DOCUMENTED = Documented(
    TextCompletion,
    events=(TextCompletion,),
    errors=GENERATES,
    parameters=COMPLETION_PARAMETERS,
    examples={"whole": _BEGINNING, "streamed": {**_BEGINNING, "stream": True}},
)


@post(
    "/v1/completions",
    status_code=200,
    tags=["generation"],
    opt={OPERATION: "text_completion", DOCUMENTED: _DOCUMENTED},
)
async def create_completion(
    request: Request[Any, Any, Any],
    data: JSONBody[CompletionRequest],
    service: NamedDependency[Service],
) -> Response[TextCompletion] | Stream:
    """Go on with one or several prompts, whole or as a stream of server-sent events."""
    completer = service.completer_for(data.model)
    check_refused(COMPLETION_PARAMETERS, msgspec.structs.asdict(data))
    prompts, options = data.prompts(), data.options()
    completer.check_number(len(prompts) * options.n, "n" if len(prompts) == 1 else "prompt")
    grammar = await grammar_for(completer, data.output_format(), request.receive)
    completions = _started(completer, prompts, options, grammar)
    shared = head(service, "cmpl-")
    try:
        if data.stream:
            pieces = await unless_gone(request.receive, begun(interleaved(completions)))
            return event_stream(request, _chunks(shared, completions, pieces, data), completions)
        choices = await unless_gone(request.receive, _choices(completions, data))
    except BaseException:
        for completion in completions:
            completion.abort()
        raise
    whole = TextCompletion(**shared, choices=choices, usage=usage_of(completions, options.n))
    if data.timings:
        whole.timings = timings_of(completions)
    return Response(whole)


def _started(
    completer: Completer,
    prompts: list[str | list[int]],
    options: CompletionOptions,
    grammar: Grammar | None,
) -> list[Completion]:
    """All prompts, submitted; none of them when one is refused."""
    completions: list[Completion] = []
    try:
        for prompt in prompts:
            completions += completer.complete(prompt, options, grammar)
    except BaseException:
        for completion in completions:
            completion.abort()
        raise
    return completions


async def _choices(completions: list[Completion], data: CompletionRequest) -> list[TextChoice]:
    return [
        _choice(index, await collected(completion), data)
        for index, completion in enumerate(completions)
    ]


async def _chunks(
    shared: dict[str, Any],
    completions: list[Completion],
    pieces: AsyncIterator[tuple[int, Delta]],
    data: CompletionRequest,
) -> AsyncIterator[TextCompletion]:
    n, num_open = data.n or 1, len(completions)
    async for index, delta in pieces:
        usage: Usage | msgspec.UnsetType | None = None if data.include_usage else msgspec.UNSET
        if data.usage_in_every_chunk:
            usage = usage_of(completions, n)
        num_open -= delta.finish_reason is not None
        chunk = TextCompletion(**shared, choices=[_choice(index, delta, data)], usage=usage)
        if data.timings and not num_open and not data.include_usage:
            chunk.timings = timings_of(completions)
        yield chunk
    if data.include_usage:
        last = TextCompletion(**shared, choices=[], usage=usage_of(completions, n))
        if data.timings:
            last.timings = timings_of(completions)
        yield last


def _choice(index: int, delta: Delta, data: CompletionRequest) -> TextChoice:
    return TextChoice(
        index=index,
        text=delta.text,
        logprobs=None if data.logprobs is None else text_logprobs(delta.tokens),
        finish_reason=wire_reason(delta.finish_reason) if delta.finish_reason else None,
    )
