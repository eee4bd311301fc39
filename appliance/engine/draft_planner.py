"""Decides how many drafts each sequence has verified in a step: as many as are likely to pay.

A pass reads all weights once, however few tokens it computes, so a few drafts more cost little and
each that turns out right spares a step. They pay while the tokens expected from a step grow faster
than its time.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from itertools import accumulate, pairwise

from appliance.engine.prompt_lookup import Guess, PromptLookup
from appliance.engine.sequence import Sequence

# A pass over so many tokens takes so many times as long as a pass over one; measured, 0.5B, INT8.
# Fixed, and not learnt from the clock: equal requests are to be computed in equal passes.
_COSTS = ((1, 1.0), (2, 1.07), (4, 1.15), (8, 1.3), (16, 1.9), (32, 3.3))
_COST_PER_TOKEN_BEHIND = (3.3 - 1.9) / 16

# All drafts of a step together; and how much longer it may take for them while there are sequences
# with nothing to guess, which only wait.
_MAX_STEP_DRAFTS = 16
_MAX_SLOWDOWN = 1.5


class DraftPlanner:
    """Hands out drafts, at most `max_draft_tokens` to each sequence and a bounded sum in a step.

    `pads_rows`: a pass computes as many tokens in every row as in the longest one.
    """

    def __init__(self, max_draft_tokens: int, *, pads_rows: bool) -> None:
        assert max_draft_tokens >= 0
        self._max_draft_tokens = max_draft_tokens
        self._pads_rows = pads_rows

    def plan(
        self, sequences: SequenceOf[Sequence], num_prompt_tokens: int
    ) -> list[tuple[int, ...]]:
        """Drafts for each of `sequences`, which all decode in one step, some of them ().

        `num_prompt_tokens` of others share that step.
        """
        guesses = [self._guess(sequence) for sequence in sequences]
        if not any(guess.token_ids for guess in guesses):
            return [()] * len(guesses)
        counts = (padded_counts if self._pads_rows else ragged_counts)(guesses, num_prompt_tokens)
        return [guess.token_ids[:count] for guess, count in zip(guesses, counts, strict=True)]

    def _guess(self, sequence: Sequence) -> Guess:
        # With all drafts right, one token more than those comes out of the step.
        num_wanted = min(self._max_draft_tokens, sequence.num_tokens_left - 1)
        if num_wanted < 1:
            return Guess((), ())
        if sequence.lookup is None:
            sequence.lookup = PromptLookup()
        return sequence.lookup.guess(sequence.token_ids, num_wanted)


def ragged_counts(guesses: SequenceOf[Guess], num_prompt_tokens: int) -> list[int]:
    """Drafts per guess where a pass costs as much as all its tokens: the likeliest ones first."""
    # No chance is larger than the one before it, so of each guess a beginning is taken.
    ranked = sorted(
        ((chance, row) for row, guess in enumerate(guesses) for chance in guess.chances),
        reverse=True,
    )[:_MAX_STEP_DRAFTS]
    # A prompt's token is worth what it costs, or drafts would seem cheap beside a long prompt.
    worth = len(guesses) + num_prompt_tokens * _COST_PER_TOKEN_BEHIND
    worths = list(accumulate((chance for chance, _ in ranked), initial=worth))
    sizes = [len(guesses) + num_prompt_tokens + count for count in range(len(worths))]
    counts = [0] * len(guesses)
    for _, row in ranked[: _best(guesses, worths, sizes)]:
        counts[row] += 1
    return counts


def padded_counts(guesses: SequenceOf[Guess], num_prompt_tokens: int) -> list[int]:
    """Drafts per guess where every row costs as much as the longest: up to one length for all."""
    assert not num_prompt_tokens, "prompts have a step of their own here"
    num_rows = len(guesses)
    longest = max(len(guess.token_ids) for guess in guesses)
    gains = [
        sum(guess.chances[index] for guess in guesses if index < len(guess.chances))
        for index in range(min(longest, _MAX_STEP_DRAFTS // num_rows))
    ]
    worths = list(accumulate(gains, initial=float(num_rows)))
    sizes = [num_rows * (1 + count) for count in range(len(worths))]
    length = _best(guesses, worths, sizes)
    return [min(length, len(guess.token_ids)) for guess in guesses]


def _best(guesses: SequenceOf[Guess], worths: SequenceOf[float], sizes: SequenceOf[int]) -> int:
    """Which of several passes gives most per time; the first is the one without drafts.

    `worths` are the tokens expected from each, `sizes` those computed in it.
    """
    costs = [pass_cost(size) for size in sizes]
    somebody_waits = not all(guess.token_ids for guess in guesses)
    limit = costs[0] * _MAX_SLOWDOWN if somebody_waits else costs[-1]
    rates = [w / cost for w, cost in zip(worths, costs, strict=True) if cost <= limit]
    return rates.index(max(rates))


def pass_cost(num_tokens: int) -> float:
    """How long a pass over `num_tokens` takes, in passes over one token. At least 1 token."""
    if num_tokens >= _COSTS[-1][0]:
        return _COSTS[-1][1] + (num_tokens - _COSTS[-1][0]) * _COST_PER_TOKEN_BEHIND
    return _COST_OF[num_tokens]


def _interpolated() -> list[float]:
    costs = [0.0] * (_COSTS[-1][0] + 1)
    for (left, low), (right, high) in pairwise(_COSTS):
        for num_tokens in range(left, right + 1):
            share = (num_tokens - left) / (right - left)
            costs[num_tokens] = low + share * (high - low)
    return costs


_COST_OF = _interpolated()
