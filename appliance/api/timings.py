"""Where a request's time went, under the names that llama.cpp's server gives it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from appliance.chat.completion import Completion


class Timings(msgspec.Struct, kw_only=True):
    """Milliseconds and tokens of a whole request; of several answers, from the first to the last.

    `queue_ms`: until anything was computed; `prompt_ms`: from then to the first token, in which
    `prompt_n` tokens were computed and `cache_n` found known; `predicted_ms`: from the first token
    to the last of `predicted_n`. `predicted_per_second` leaves out the first token of each answer,
    whose time belongs to the prompt. `draft_n` tokens were guessed, `draft_n_accepted` rightly.
    """

    queue_ms: float
    cache_n: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None
    draft_n: int
    draft_n_accepted: int


def timings_of(completions: Sequence[Completion]) -> Timings:
    """What became of the time, when the answers are complete."""
    generations = [completion.generation for completion in completions]
    submitted_at = min(generation.submitted_at for generation in generations)
    started_at = min(g.submitted_at + g.progress.queued_s for g in generations)
    first_at = min((g.first_at for g in generations if g.first_at is not None), default=started_at)
    last_at = max((g.last_at for g in generations if g.last_at is not None), default=first_at)
    num_cached = sum(completion.num_cached_tokens for completion in completions)
    num_output = sum(completion.num_output_tokens for completion in completions)
    num_later = num_output - sum(completion.num_output_tokens > 0 for completion in completions)
    decode_s = last_at - first_at
    return Timings(
        queue_ms=_ms(started_at - submitted_at),
        cache_n=num_cached,
        prompt_n=sum(completion.num_prompt_tokens for completion in completions) - num_cached,
        prompt_ms=_ms(first_at - started_at),
        predicted_n=num_output,
        predicted_ms=_ms(decode_s),
        predicted_per_second=round(num_later / decode_s, 2) if decode_s else None,
        draft_n=sum(generation.progress.num_drafted for generation in generations),
        draft_n_accepted=sum(generation.progress.num_accepted for generation in generations),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
