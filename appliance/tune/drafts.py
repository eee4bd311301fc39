"""How many drafts are worth verifying in one pass, from what passes cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ACCEPTED = 0.8
"""How often a draft is right where the answer copies from the prompt, which is what drafts are for;
elsewhere the engine drafts less, whatever the limit is."""


@dataclass(frozen=True, slots=True)
class PassTimes:
    """Milliseconds of one pass, by the number of tokens it computes behind a context.

    `changed`: the pass before it was of another size, for which a pass prepares itself anew.
    `steady`: it was of the same size.
    """

    changed: dict[int, float]
    steady: dict[int, float]


def verify_cost(sweeps: Sequence[PassTimes]) -> dict[int, float]:
    """Passes of 1, 2, 4, ... tokens in a row, in decode steps; medians over `sweeps`.

    Where an answer copies, one pass follows another with equally many drafts.
    """
    steady = _medians([sweep.steady for sweep in sweeps])
    return {num_tokens: took / steady[1] for num_tokens, took in sorted(steady.items())}


def change_cost(sweeps: Sequence[PassTimes]) -> float:
    """What a pass takes longer when the one before was of another size, in decode steps."""
    changed = _medians([sweep.changed for sweep in sweeps])
    steady = _medians([sweep.steady for sweep in sweeps])
    return statistics.median(changed[n] - steady[n] for n in steady) / steady[1]


def draft_settings(costs: Mapping[int, float]) -> dict[str, bool | int]:
    """Fields of `EngineConfig`: how many drafts pay, or that none do."""
    num_drafts = best_max_draft_tokens(costs)
    return {"max_draft_tokens": num_drafts} if num_drafts else {"prompt_lookup": False}


def best_max_draft_tokens(costs: Mapping[int, float], accepted: float = ACCEPTED) -> int:
    """The d with the most tokens per time, (1 - p^(d+1)) / (1 - p) / cost(d + 1).

    p is the probability that a draft is right if all before it were; a pass that verifies d drafts
    computes d + 1 tokens and gives one more than were accepted. Between measured numbers of tokens
    the cost is a straight line. 0: drafts do not pay here.
    """

    def tokens_per_time(num_drafts: int) -> float:
        expected = (1 - accepted ** (num_drafts + 1)) / (1 - accepted)
        return expected / _interpolated(costs, num_drafts + 1)

    return max(range(max(costs)), key=tokens_per_time)


def _interpolated(costs: Mapping[int, float], num_tokens: int) -> float:
    if num_tokens in costs:
        return costs[num_tokens]
    below = max(n for n in costs if n < num_tokens)
    above = min(n for n in costs if n > num_tokens)
    share = (num_tokens - below) / (above - below)
    return costs[below] + share * (costs[above] - costs[below])


def _medians(sweeps: Sequence[Mapping[int, float]]) -> dict[int, float]:
    return {n: statistics.median(sweep[n] for sweep in sweeps) for n in sweeps[0]}
