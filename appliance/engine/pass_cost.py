"""How long a forward pass takes, by what is in it; in decode steps of one sequence.

Measured with a 0.5B model in INT8. Fixed, and not learnt from the clock: equal requests are to be
computed in equal passes.
"""

from __future__ import annotations

from itertools import pairwise

# Weights are read once, so that the first few tokens more cost little; then each costs the same.
_MEASURED = ((1, 1.0), (2, 1.07), (4, 1.15), (8, 1.3), (16, 1.9), (32, 3.3))
_PER_TOKEN_BEHIND = (3.3 - 1.9) / 16

# OpenVINO prepares every layer anew for a pass that has not the shape of the one before.
_RESIZING = 0.25


class PassCost:
    """What passes cost on one backend, whose limits give `position_cost`."""

    def __init__(self, position_cost: float) -> None:
        self._position_cost = position_cost

    def of(self, num_tokens: int, num_positions: int = 0, *, resized: bool = False) -> float:
        """A pass over `num_tokens`, at least 1.

        `num_positions`: over all tokens in chunks of several, how many positions lie before their
        chunk. `resized`: the pass before this one had another number of tokens.
        """
        if num_tokens < len(_BY_TOKENS):
            cost = _BY_TOKENS[num_tokens]
        else:
            cost = _BY_TOKENS[-1] + (num_tokens - len(_BY_TOKENS) + 1) * _PER_TOKEN_BEHIND
        return cost + num_positions * self._position_cost + (_RESIZING if resized else 0.0)


def _interpolated() -> list[float]:
    """The costs of 0 to 32 tokens: straight lines between what was measured."""
    costs = [0.0] * (_MEASURED[-1][0] + 1)
    for (left, low), (right, high) in pairwise(_MEASURED):
        for num_tokens in range(left, right + 1):
            costs[num_tokens] = low + (num_tokens - left) / (right - left) * (high - low)
    return costs


_BY_TOKENS = _interpolated()
