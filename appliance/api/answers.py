"""What both generating endpoints share: waiting for the first piece, collecting, counting."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from litestar.types import Receive

from appliance.api.disconnect import unless_gone
from appliance.api.output_formats import FormatFields
from appliance.api.schemas import PromptTokensDetails, Usage
from appliance.chat.completer import Completer
from appliance.chat.completion import Completion, Delta
from appliance.chat.grammar import Grammar
from appliance.engine.sequence import FinishReason
from appliance.service import Service


def head(service: Service, prefix: str) -> dict[str, Any]:
    """The fields that every chunk of one answer shares; `prefix` begins its id."""
    return {
        "id": prefix + uuid.uuid4().hex,
        "created": int(time.time()),
        "model": service.model_name,
        "system_fingerprint": service.system_fingerprint,
    }


async def grammar_for(completer: Completer, data: FormatFields, receive: Receive) -> Grammar | None:
    """The form that the request asks for, compiled; None if it asks for none.

    Raises `RequestError`, and what `unless_gone` raises.
    """
    form = data.output_format()
    return None if form is None else await unless_gone(receive, completer.grammar(form))


async def begun(deltas: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    """Wait for the first delta, and return an iterator over it and the others.

    What goes wrong before the first token can so be told with a status of its own.
    """
    first = await anext(deltas)

    async def chained() -> AsyncIterator[Delta]:
        yield first
        async for delta in deltas:
            yield delta

    return chained()


async def collected(completion: Completion) -> tuple[str, str]:
    """The whole answer and its finish reason."""
    texts = []
    reason = FinishReason.STOP
    async for delta in completion.deltas():
        texts.append(delta.text)
        reason = delta.finish_reason or reason
    return "".join(texts), reason.value


def usage_of(completions: Sequence[Completion]) -> Usage:
    """What the completions have used so far, added up."""
    prompt = sum(c.num_prompt_tokens for c in completions)
    output = sum(c.num_output_tokens for c in completions)
    cached = sum(c.num_cached_tokens for c in completions)
    return Usage(prompt, output, prompt + output, PromptTokensDetails(cached))
