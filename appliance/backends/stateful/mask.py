"""Which positions of a batch's state count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FIRST_ROOM = 1024


class Mask:
    """One row of 1 (a token) and 0 (a hole) for each row of the state, all of one length.

    What the model takes as `attention_mask`. A hole is a token that was cut, or padding: attention
    ignores it exactly.
    """

    def __init__(self) -> None:
        self._values = np.zeros((0, _FIRST_ROOM), dtype=np.int64)
        self.length = 0

    def reset(self, row_lengths: Sequence[int]) -> None:
        """The state holds one row for each of `row_lengths`, holes only behind the tokens."""
        self.length = max(row_lengths, default=0)
        self._values = np.zeros((len(row_lengths), self._room(self.length)), dtype=np.int64)
        for row, length in enumerate(row_lengths):
            self._values[row, :length] = 1

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self._values = self._values[list(rows)]

    def cut(self, row: int, num_tokens: int) -> None:
        """Turn everything behind the row's first `num_tokens` tokens into holes."""
        values = self._values[row, : self.length]
        values[np.flatnonzero(values)[num_tokens:]] = 0

    def extended(self, num_tokens: Sequence[int]) -> NDArray[np.int64]:
        """The mask `(rows, length + max(num_tokens))` for a pass that appends so many to each row.

        Shorter rows are padded behind.
        """
        length = self.length + max(num_tokens)
        if length > self._values.shape[1]:
            grown = np.zeros((len(self._values), self._room(length)), dtype=np.int64)
            grown[:, : self.length] = self._values[:, : self.length]
            self._values = grown
        for row, number in enumerate(num_tokens):
            self._values[row, self.length : self.length + number] = 1
            self._values[row, self.length + number : length] = 0
        return np.ascontiguousarray(self._values[:, :length])

    def append(self, num_positions: int) -> None:
        """So many positions of the extension are in the state now."""
        self.length += num_positions

    @staticmethod
    def _room(length: int) -> int:
        return max(_FIRST_ROOM, 2 * length)
