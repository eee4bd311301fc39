"""How fast answers come and how long they get; from both, when a place will be free."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from typing import Protocol

_NUM_ANSWERS = 16
_MEMORY_S = 10.0


class OpenAnswer(Protocol):
    """An answer that is not complete: tokens it has, tokens it may have."""

    num_output_tokens: int
    max_tokens: int


class Pace:
    """Measures while there is work: idle time says nothing. Times are monotonic seconds.

    Tokens per second fade with a time constant of ten seconds; of lengths the last 16 count.
    """

    def __init__(self) -> None:
        self._lengths: deque[int] = deque(maxlen=_NUM_ANSWERS)
        self._num_tokens = 0.0
        self._busy_s = 0.0
        self._last = 0.0

    def resumed(self, now: float) -> None:
        """There is work again."""
        self._last = now

    def delivered(self, now: float, num_tokens: int) -> None:
        """A step gave all answers together `num_tokens`."""
        passed = max(0.0, now - self._last)
        kept = math.exp(-passed / _MEMORY_S)
        self._num_tokens = self._num_tokens * kept + num_tokens
        self._busy_s = self._busy_s * kept + passed
        self._last = now

    def finished(self, length: int) -> None:
        """An answer of `length` tokens is complete."""
        self._lengths.append(length)

    def seconds_per_place(self) -> float | None:
        """Time between two answers' ends; None while unknown."""
        per_token = self._seconds_per_token()
        if per_token is None or not self._lengths:
            return None
        return per_token * max(1.0, sum(self._lengths) / len(self._lengths))

    def seconds_to_place(self, running: Collection[OpenAnswer]) -> float | None:
        """Time until the first of `running` ends, which share the pace; None while unknown."""
        per_token = self._seconds_per_token()
        if per_token is None or not running:
            return None
        return per_token * len(running) * min(map(self._expected_tokens, running))

    def _seconds_per_token(self) -> float | None:
        return self._busy_s / self._num_tokens if self._num_tokens > 0.5 else None

    def _expected_tokens(self, answer: OpenAnswer) -> float:
        """Tokens still to come: as many as those answers had that were longer than it is now."""
        longer = [n for n in self._lengths if n > answer.num_output_tokens]
        length = sum(longer) / len(longer) if longer else answer.max_tokens
        return max(1.0, min(length, answer.max_tokens) - answer.num_output_tokens)
