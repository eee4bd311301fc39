"""Decides how many drafts each sequence has verified in a step: as many as are likely to pay.

A pass reads all weights once, however few tokens it computes, so a few drafts more cost little and
each that turns out right spares a step. For one sequence they pay while the tokens expected from a
step grow faster than its time. Where several share the step, all of them wait for the drafts of
each; then the product of their speeds is made as large as it can be (proportional fairness), so the
more wait, the more a draft has to bring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from appliance.backends.base import RunnerLimits
from appliance.engine.pass_cost import PassCost
from appliance.engine.prompt_lookup import Guess, PromptLookup
from appliance.engine.sequence import Sequence

_MAX_STEP_DRAFTS = 16
"""Of all sequences together: what somebody waits at most for the drafts of others."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence that decodes: what may come next, and how many positions lie before that."""

    guess: Guess
    num_positions: int

    def gains(self) -> list[float]:
        """By how much each draft raises the logarithm of the tokens expected. Never growing."""
        expected, gains = 1.0, []
        for chance in self.guess.chances:
            gains.append(math.log1p(chance / expected))
            expected += chance
        return gains


@dataclass(frozen=True, slots=True)
class Option:
    """One way to make a step: drafts per sequence, and what comes of it.

    `gain` adds up what `Candidate.gains` has for its drafts. `num_tokens` and `num_positions` are
    what `PassCost` asks.
    """

    counts: tuple[int, ...]
    gain: float
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
        self, sequences: SequenceOf[Sequence], prompt_tokens: SequenceOf[int] = ()
    ) -> list[tuple[int, ...]]:
        """Drafts for each of `sequences`, which all decode in the next step, some of them ().

        `prompt_tokens`: how many tokens of each prompt share that step. To be called once for every
        step.
        """
        candidates = [Candidate(self._guess(s), len(s.token_ids)) for s in sequences]
        if self._pads_rows and not prompt_tokens:
            options = padded_options(candidates)
        else:
            options = ragged_options(candidates, sum(prompt_tokens))
        best = self._fairest(options, num_sharing=len(sequences) + len(prompt_tokens))
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

    def _fairest(self, options: SequenceOf[Option], num_sharing: int) -> Option:
        """The one at which the speeds of all that share the step have the largest product."""
        if len(options) == 1:
            return options[0]

        def fairness(option: Option) -> float:
            resized = option.num_tokens != self._num_tokens_before
            cost = self._cost.of(option.num_tokens, option.num_positions, resized=resized)
            return option.gain - num_sharing * math.log(cost)

        return max(options, key=fairness)


def ragged_options(candidates: SequenceOf[Candidate], num_prompt_tokens: int) -> list[Option]:
    """Where a pass costs what all its tokens cost: one draft more each, the best first."""
    num_tokens, num_positions, gain = len(candidates) + num_prompt_tokens, 0, 0.0
    counts = [0] * len(candidates)
    options = [Option(tuple(counts), gain, num_tokens, num_positions)]
    # No gain is larger than the one before it, so of each guess a beginning is taken.
    ranked = sorted(
        ((more, row) for row, candidate in enumerate(candidates) for more in candidate.gains()),
        reverse=True,
    )
    for more, row in ranked[:_MAX_STEP_DRAFTS]:
        # The first draft makes the token before it one of several, too.
        num_positions += candidates[row].num_positions * (1 if counts[row] else 2)
        num_tokens += 1
        gain += more
        counts[row] += 1
        options.append(Option(tuple(counts), gain, num_tokens, num_positions))
    return options


def padded_options(candidates: SequenceOf[Candidate]) -> list[Option]:
    """Where every row costs what the longest one costs: one length more for all each."""
    num_rows, gain = len(candidates), 0.0
    gains = [candidate.gains() for candidate in candidates]
    longest = max(map(len, gains), default=0)
    options = [Option((0,) * num_rows, gain, num_rows, 0)]
    for count in range(1, min(longest, _MAX_STEP_DRAFTS // max(num_rows, 1)) + 1):
        gain += sum(of_row[count - 1] for of_row in gains if len(of_row) >= count)
        counts = tuple(min(count, len(of_row)) for of_row in gains)
        num_positions = (1 + count) * sum(c.num_positions for c in candidates)
        options.append(Option(counts, gain, num_rows * (1 + count), num_positions))
    return options
