"""What the generating endpoints share: starting, waiting for the first piece, collecting."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, TypeVar

from litestar.types import Receive

from appliance.api.disconnect import unless_gone
from appliance.api.tools import check_shown
from appliance.chat.completer import Completer
from appliance.chat.completion import Completion, Delta
from appliance.chat.grammar import Grammar
from appliance.chat.options import CompletionOptions
from appliance.chat.output_format import OutputFormat
from appliance.chat.template import Message, PromptEnd
from appliance.chat.tools import ToolUse
from appliance.engine.sequence import FinishReason
from appliance.service import Service

T = TypeVar("T")


def wire_reason(reason: FinishReason) -> Literal["stop", "length"]:
    """Why an answer ended, in the wire's word; any other end is an error and has none."""
    assert reason in (FinishReason.STOP, FinishReason.LENGTH)
    return "stop" if reason is FinishReason.STOP else "length"


def head(service: Service, prefix: str) -> dict[str, Any]:
    """The fields that every chunk of one answer shares; `prefix` begins its id."""
    return {
        "id": prefix + uuid.uuid4().hex,
        "created": int(time.time()),
        "model": service.model_name,
        "system_fingerprint": service.system_fingerprint,
    }


async def grammar_for(
    completer: Completer, form: OutputFormat | None, receive: Receive
) -> Grammar | None:
    """The form that the answers must have, compiled; None if they may have any.

    Raises `RequestError`, and what `unless_gone` raises.
    """
    return None if form is None else await unless_gone(receive, completer.grammar(form))


async def answers_to(
    messages: Sequence[Message],
    options: CompletionOptions,
    tools: ToolUse | None,
    form: OutputFormat | None,
    *,
    completer: Completer,
    receive: Receive,
    end: PromptEnd | None = None,
) -> list[Completion]:
    """Start answering a conversation; with `tools`, and in the form that they and `form` ask for.

    Raises `RequestError`, `OverloadError`, and what `unless_gone` raises.
    """
    if tools is not None:
        check_shown(completer, tools)
        form = tools.form(form)
    grammar = await grammar_for(completer, form, receive)
    return completer.chat(messages, options, grammar, tools, end=end)


async def begun(pieces: AsyncIterator[T]) -> AsyncIterator[T]:
    """Wait for the first piece, and return an iterator over it and the others.

    What goes wrong before the first token can so be told with a status of its own.
    """
    first = await anext(pieces)

    async def chained() -> AsyncIterator[T]:
        yield first
        async for piece in pieces:
            yield piece

    return chained()


async def collected(completion: Completion) -> Delta:
    """The whole answer as one delta."""
    deltas = [delta async for delta in completion.deltas()]
    return Delta(
        "".join(delta.text for delta in deltas),
        deltas[-1].finish_reason,
        tuple(token for delta in deltas for token in delta.tokens),
        tuple(call for delta in deltas for call in delta.calls),
    )
