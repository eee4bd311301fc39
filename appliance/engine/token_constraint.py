"""What an answer may consist of, token by token; who knows grammars implements it."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class TokenConstraint(Protocol):
    """One answer's rule, and how far the answer has come in it. Engine thread only.

    Both methods raise `ApplianceError` when the rule cannot be followed any further, which ends the
    answer with that error.
    """

    def allowed(self) -> bytes:
        """Which tokens may come next: a bit per token id, the lowest bit of a byte first.

        At least one is allowed, unless `is_complete`. An end token is, where the answer may end.
        """

    def accept(self, token_id: int) -> None:
        """The answer goes on with `token_id`, which is one of those allowed."""

    @property
    def is_complete(self) -> bool:
        """Nothing may follow: the answer is at its end, whether an end token is said or not."""


class AllowedTokens:
    """Which of a vocabulary's tokens may come next: at least one.

    `bits`: uint8 `(ceil(vocab_size / 8),)`, a bit per token id, the lowest bit of a byte first.
    Those behind the vocabulary are 0.
    """

    def __init__(self, mask: bytes, vocab_size: int) -> None:
        """`mask` has the bits; those it lacks are 0, those behind `vocab_size` do not count."""
        self.bits = np.zeros((vocab_size + 7) // 8, dtype=np.uint8)
        given = np.frombuffer(mask, dtype=np.uint8)[: len(self.bits)]
        self.bits[: len(given)] = given
        self.bits[-1] &= 0xFF >> (-vocab_size % 8)
        num = int(np.bitwise_count(self.bits).sum())
        assert num, "a rule that allows no token must say that the answer is complete"
        self.are_all = num == vocab_size

    def id_at(self, place: int) -> int:
        """The id that has `place` allowed ones before it; there are more than `place`."""
        # int32 throughout: int64 would be a large block to the heap (`appliance/heap.py`).
        ends = np.cumsum(np.bitwise_count(self.bits), dtype=np.int32)
        byte = int(np.searchsorted(ends, np.int32(place), side="right"))
        before = int(ends[byte - 1]) if byte else 0
        within = np.flatnonzero(np.unpackbits(self.bits[byte : byte + 1], bitorder="little"))
        return 8 * byte + int(within[place - before])
