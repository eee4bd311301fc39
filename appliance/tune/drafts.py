"""How many drafts are worth verifying in one pass, from what passes cost."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.tune.judge import TurnTimes

ACCEPTED = 0.8
"""How often a draft is right where the answer copies from the prompt, which is what drafts are for;
elsewhere the engine drafts less, whatever the limit is."""


def verify_cost(times: TurnTimes) -> dict[int, float]:
    """The time of a pass over 1, 2, 4, ... tokens as a multiple of a decode step's."""
    costs = {num_tokens: took / times.decode for num_tokens, took in times.passes.items()}
    return {1: 1.0, **dict(sorted(costs.items()))}


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
