"""How far two texts are the same, for every variant's prefix reuse."""

from __future__ import annotations

from collections.abc import Sequence


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their beginning."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
