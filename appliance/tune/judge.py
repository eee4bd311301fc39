"""Who is faster, and whether that is more than noise.

A candidate may decode faster and prefill slower. What counts is the time of a turn: 128 new prompt
tokens computed and 64 tokens answered. On a small CPU that is about one part prefill to two parts
decode, as in a chat whose history is known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PROMPT_TOKENS = 128
ANSWER_TOKENS = 64

MIN_MARGIN = 0.03
"""Two loads of one model with equal settings differ by up to 3 %, depending on where their memory
lies, and no number of rounds averages that out (`backends/README.md`, Properties)."""

MARGIN_PER_DOUBLING = 0.10
"""What twice the memory has to buy: bytes that hold one conversation twice as precisely cannot hold
a second one, whose history then has to be computed again."""


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """One round of one contestant, in milliseconds.

    `decode` is a pass of one token behind a context of some 128, `prefill` 128 tokens into nothing.
    """

    decode: float
    prefill: float

    @property
    def turn(self) -> float:
        return self.prefill + ANSWER_TOKENS * self.decode


@dataclass(frozen=True, slots=True)
class Judgement:
    """`ratio` below 1 is faster than the default; the candidate wins below 1 - `margin`."""

    ratio: float
    margin: float
    hopeless: bool

    @property
    def wins(self) -> bool:
        return self.ratio < 1 - self.margin


def judge(rounds: Sequence[tuple[TurnTimes, TurnTimes]], memory_factor: float = 1.0) -> Judgement:
    """Judge a candidate by its rounds, each with the default's times of the same round.

    The margin is the larger of `MIN_MARGIN` and two standard errors of the median ratio, estimated
    from the median deviation (so that one disturbed round does not count); on top of it comes
    `MARGIN_PER_DOUBLING` for each doubling of memory. `hopeless`: it is no faster by the median, or
    not even its best round reached the smallest margin; more rounds would cost others their trial.
    """
    ratios = [candidate.turn / default.turn for candidate, default in rounds]
    ratio = statistics.median(ratios)
    deviation = statistics.median(abs(one - ratio) for one in ratios)
    # 1.48 turns a median deviation into a standard one, 1.25 a mean's error into a median's.
    error = 1.48 * 1.25 * deviation / math.sqrt(len(ratios))
    extra = MARGIN_PER_DOUBLING * max(0.0, math.log2(memory_factor))
    margin = max(MIN_MARGIN, 2 * error) + extra
    hopeless = ratio >= 1 or min(ratios) > 1 - MIN_MARGIN - extra
    return Judgement(ratio, margin, hopeless)


def median_times(rounds: Sequence[TurnTimes]) -> TurnTimes:
    """Of each figure the median over `rounds`."""
    return TurnTimes(
        decode=statistics.median(one.decode for one in rounds),
        prefill=statistics.median(one.prefill for one in rounds),
    )
