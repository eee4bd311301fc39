"""Decides how many drafts each sequence has verified in a step: as many as are likely to pay.

A pass reads all weights once, however few tokens it computes, so a few drafts more cost little and
each that turns out right spares a step. They pay while the tokens expected from a step grow faster
than its time.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from appliance.backends.base import RunnerLimits
from appliance.engine.pass_cost import COST_PER_TOKEN, PassCost
from appliance.engine.prompt_lookup import Guess, PromptLookup
from appliance.engine.sequence import Sequence

# All drafts of a step together; and how much longer it may take for them while there are sequences
# with nothing to guess, which only wait.
_MAX_STEP_DRAFTS = 16
_MAX_SLOWDOWN = 1.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence that decodes: what may come next, and how many positions lie before that."""

    guess: Guess
    num_positions: int


@dataclass(frozen=True, slots=True)
class Option:
    """One way to make a step: drafts per sequence, and what comes of it.

    `worth`: the tokens expected. `num_tokens` and `num_positions` are what `PassCost` asks.
    """

    counts: tuple[int, ...]
    worth: float
    num_tokens: int
    num_positions: int


class DraftPlanner:
    """Hands out drafts, at most `max_draft_tokens` to each sequence and a bounded sum in a step."""

    def __init__(self, max_draft_tokens: int, limits: RunnerLimits) -> None:
        assert max_draft_tokens >= 0
        self._max_draft_tokens = max_draft_tokens
        self._pads_rows = limits.pads_rows
        self._cost = PassCost(limits.position_cost)
        self._num_tokens_before = 0

    def plan(
        self, sequences: SequenceOf[Sequence], num_prompt_tokens: int
    ) -> list[tuple[int, ...]]:
        """Drafts for each of `sequences`, which all decode in the next step, some of them ().

        `num_prompt_tokens` of others share that step. To be called once for every step.
        """
        candidates = [Candidate(self._guess(s), len(s.token_ids)) for s in sequences]
        if self._pads_rows and not num_prompt_tokens:
            options = padded_options(candidates)
        else:
            options = ragged_options(candidates, num_prompt_tokens)
        best = self._best(options, somebody_waits=not all(c.guess.token_ids for c in candidates))
        self._num_tokens_before = best.num_tokens
        return [c.guess.token_ids[:n] for c, n in zip(candidates, best.counts, strict=True)]

    def _guess(self, sequence: Sequence) -> Guess:
        # With all drafts right, one token more than those comes out of the step.
        num_wanted = min(self._max_draft_tokens, sequence.num_tokens_left - 1)
        if num_wanted < 1:
            return Guess((), ())
        if sequence.lookup is None:
            sequence.lookup = PromptLookup()
        return sequence.lookup.guess(sequence.token_ids, num_wanted)

    def _best(self, options: SequenceOf[Option], *, somebody_waits: bool) -> Option:
        """The one with most tokens per time; the first one, without drafts, is always possible."""
        plain = options[0]
        if len(options) == 1:
            return plain
        costs = [self._cost.of(option.num_tokens, option.num_positions) for option in options]
        limit = costs[0] * _MAX_SLOWDOWN if somebody_waits else max(costs)

        def rate(index: int) -> float:
            option = options[index]
            resized = option.num_tokens != self._num_tokens_before
            cost = self._cost.of(option.num_tokens, option.num_positions, resized=resized)
            return option.worth / cost

        return options[max((i for i, cost in enumerate(costs) if cost <= limit), key=rate)]


def ragged_options(candidates: SequenceOf[Candidate], num_prompt_tokens: int) -> list[Option]:
    """Where a pass costs what all its tokens cost: one draft more each, the likeliest first."""
    # A prompt's token is worth what it costs, or drafts would seem cheap beside a long prompt.
    worth = len(candidates) + num_prompt_tokens * COST_PER_TOKEN
    num_tokens, num_positions = len(candidates) + num_prompt_tokens, 0
    counts = [0] * len(candidates)
    options = [Option(tuple(counts), worth, num_tokens, num_positions)]
    # No chance is larger than the one before it, so of each guess a beginning is taken.
    ranked = sorted(
        ((chance, row) for row, c in enumerate(candidates) for chance in c.guess.chances),
        reverse=True,
    )
    for chance, row in ranked[:_MAX_STEP_DRAFTS]:
        # The first draft makes the token before it one of several, too.
        num_positions += candidates[row].num_positions * (1 if counts[row] else 2)
        num_tokens += 1
        worth += chance
        counts[row] += 1
        options.append(Option(tuple(counts), worth, num_tokens, num_positions))
    return options


def padded_options(candidates: SequenceOf[Candidate]) -> list[Option]:
    """Where every row costs what the longest one costs: one length more for all each."""
    num_rows = len(candidates)
    worth = float(num_rows)
    options = [Option((0,) * num_rows, worth, num_rows, 0)]
    longest = max((len(c.guess.token_ids) for c in candidates), default=0)
    for count in range(1, min(longest, _MAX_STEP_DRAFTS // max(num_rows, 1)) + 1):
        worth += sum(
            c.guess.chances[count - 1] for c in candidates if len(c.guess.chances) >= count
        )
        counts = tuple(min(count, len(c.guess.token_ids)) for c in candidates)
        num_positions = (1 + count) * sum(c.num_positions for c in candidates)
        options.append(Option(counts, worth, num_rows * (1 + count), num_positions))
    return options
