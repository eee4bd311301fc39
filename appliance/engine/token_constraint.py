"""What an answer may consist of, token by token; who knows grammars implements it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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


def allowed_ids(constraint: TokenConstraint, vocab_size: int) -> NDArray[np.intp]:
    """The token ids below `vocab_size` that may come next, ascending, at least one."""
    bits = np.frombuffer(constraint.allowed(), dtype=np.uint8)
    ids = np.flatnonzero(np.unpackbits(bits, count=vocab_size, bitorder="little"))
    assert len(ids), "a rule that allows no token must say that the answer is complete"
    return ids
