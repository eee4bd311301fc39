"""`POST /v1/completions`: a text goes on as it is, without a chat template."""

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
from appliance.api.parameters import COMPLETION_PARAMETERS, check_refused
from appliance.api.request_meter import OPERATION
from appliance.api.schemas import CompletionRequest, Usage
from appliance.api.sse import event_stream
from appliance.chat.completer import Completer
from appliance.chat.completion import Completion, Delta
from appliance.chat.grammar import Grammar
from appliance.chat.options import CompletionOptions
from appliance.errors import RequestError
from appliance.service import Service


class TextChoice(msgspec.Struct, kw_only=True):
    """One prompt's answer, or a chunk of it; `index` is the prompt's."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: str | None = None


class TextCompletion(msgspec.Struct, kw_only=True):
    """The whole answer, or one chunk of it; in a stream `usage` is there only when asked for."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


@post("/v1/completions", status_code=200, tags=["generation"], opt={OPERATION: "text_completion"})
async def create_completion(
    request: Request[Any, Any, Any],
    data: JSONBody[CompletionRequest],
    service: NamedDependency[Service],
) -> Response[TextCompletion] | Stream:
    """Go on with one or several prompts, whole or as a stream of server-sent events."""
    completer = service.completer_for(data.model)
    check_refused(COMPLETION_PARAMETERS, msgspec.structs.asdict(data))
    prompts, options = data.prompts(), data.options(data.max_tokens)
    grammar = await grammar_for(completer, data, request.receive)
    completions = _started(completer, prompts, options, grammar)
    shared = head(service, "cmpl-")
    try:
        if data.stream:
            first = await unless_gone(request.receive, begun(completions[0].deltas()))
            chunks = _chunks(shared, completions, first, data.include_usage)
            return event_stream(request, chunks, completions)
        choices = await unless_gone(request.receive, _choices(completions))
    except BaseException:
        for completion in completions:
            completion.abort()
        raise
    return Response(TextCompletion(**shared, choices=choices, usage=usage_of(completions)))


def _started(
    completer: Completer,
    prompts: list[str | list[int]],
    options: CompletionOptions,
    grammar: Grammar | None,
) -> list[Completion]:
    """All prompts, submitted; none of them when one is refused."""
    if len(prompts) > completer.max_prompts:
        raise RequestError(
            f"the list has {len(prompts)} prompts, this server takes {completer.max_prompts} at "
            "once (engine.max_waiting and those that run); send several requests",
            "prompt",
        )
    completions: list[Completion] = []
    try:
        for prompt in prompts:
            completions.append(completer.complete(prompt, options, grammar))
    except BaseException:
        for completion in completions:
            completion.abort()
        raise
    return completions


async def _choices(completions: list[Completion]) -> list[TextChoice]:
    choices = []
    for index, completion in enumerate(completions):
        text, reason = await collected(completion)
        choices.append(TextChoice(text=text, index=index, finish_reason=reason))
    return choices


async def _chunks(
    shared: dict[str, Any],
    completions: list[Completion],
    first: AsyncIterator[Delta],
    include_usage: bool,
) -> AsyncIterator[TextCompletion]:
    usage = None if include_usage else msgspec.UNSET
    for index, completion in enumerate(completions):
        async for delta in first if index == 0 else completion.deltas():
            reason = delta.finish_reason.value if delta.finish_reason else None
            choice = TextChoice(text=delta.text, index=index, finish_reason=reason)
            yield TextCompletion(**shared, choices=[choice], usage=usage)
    if include_usage:
        yield TextCompletion(**shared, choices=[], usage=usage_of(completions))
