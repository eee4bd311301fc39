"""How many tokens a request has taken."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from appliance.chat.completion import Completion


class PromptTokensDetails(msgspec.Struct):
    """`cached_tokens`: prompt tokens whose KV was known and not computed again."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_of(completions: Sequence[Completion], n: int) -> Usage:
    """What the completions have used so far; each `n` in a row answer one prompt, counted once."""
    prompt = sum(c.num_prompt_tokens for c in completions[::n])
    cached = sum(c.num_cached_tokens for c in completions[::n])
    output = sum(c.num_output_tokens for c in completions)
    return Usage(prompt, output, prompt + output, PromptTokensDetails(cached))
