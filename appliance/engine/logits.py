"""Questions to the logits of a whole vocabulary, answered without temporaries of its size.

Memory above 128 KiB comes from the system and goes back to it each time (`appliance/heap.py`):
touching 600 KB of it for the first time takes longer than all that is done with them here. So the
logits are gone through in pieces, which stay in a core's cache as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Tokens whose weights are summed up together.
BLOCK = 256
# 96 KiB of float32, whole blocks, and whole bytes of a bit per token.
_PIECE = 96 * BLOCK
_GROUPS = 4096


def weights(
    logits: NDArray[np.float32],
    highest: np.float32,
    temperature: np.float32,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Unnormalised probabilities, float32 of the shape of `logits`; 1 where a logit is `highest`.

    They are written to `out` if there is one.
    """
    scaled = np.subtract(logits, highest, out=out)
    np.divide(scaled, temperature, out=scaled)
    return np.exp(scaled, out=scaled)


def block_sums(
    logits: NDArray[np.float32], highest: np.float32, temperature: np.float32
) -> NDArray[np.float64]:
    """The sum of the weights of each `BLOCK` tokens, the last of which may be shorter.

    A block is added up in float32, pairwise, which is right to some 1e-7 of its sum. All sums
    together need float64.
    """
    room = np.empty(min(_PIECE, len(logits)), dtype=np.float32)
    sums = []
    for piece in _pieces(logits):
        weighed = weights(piece, highest, temperature, room[: len(piece)])
        sums.append(np.add.reduceat(weighed, np.arange(0, len(piece), BLOCK)))
    return np.concatenate(sums, dtype=np.float64)


def at_least(logits: NDArray[np.float32], bound: float) -> NDArray[np.intp]:
    """The ids of all logits that are not below `bound`, ascending."""
    found = [np.flatnonzero(~(piece < bound)) for piece in _pieces(logits)]
    for number, ids in enumerate(found):
        ids += number * _PIECE
    return np.concatenate(found)


def largest(logits: NDArray[np.float32], num: int) -> NDArray[np.intp]:
    """The ids of the `num` largest logits, ascending; of equal ones the smallest ids.

    Those of all logits if there are no more than `num`. `num` is at least 1.
    """
    if num >= len(logits):
        return np.arange(len(logits))
    num_rows = len(logits) // _GROUPS
    if num_rows < 2 or num > _GROUPS:
        return np.flatnonzero(are_largest(logits, num))
    # The largest of each of 4096 groups, which takes one fast pass. `num` of them are not below
    # the bound, so the `num` largest logits are not either, and few others are.
    tops = logits[: num_rows * _GROUPS].reshape(num_rows, _GROUPS).max(axis=0)
    ids = at_least(logits, np.partition(tops, _GROUPS - num)[_GROUPS - num])
    return ids[are_largest(logits[ids], num)]


def are_largest(values: NDArray[np.float32], num: int) -> NDArray[np.bool_]:
    """Marks the `num` largest of `values`, which has as many at least; of equal ones the first."""
    smallest = np.partition(values, len(values) - num)[len(values) - num]
    marks: NDArray[np.bool_] = ~(values <= smallest)
    equal = np.flatnonzero(values == smallest)
    marks[equal[: num - np.count_nonzero(marks)]] = True
    return marks


def compress(
    logits: NDArray[np.float32], bits: NDArray[np.uint8], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The logits whose bit is 1, in their order, in the beginning of `out`, which may be `logits`.

    `bits`: uint8 `(ceil(len(logits) / 8),)`, the lowest bit of a byte first.
    """
    end = 0
    for number, piece in enumerate(_pieces(logits)):
        some = bits[number * _PIECE // 8 : (number + 1) * _PIECE // 8]
        # Chosen by marks, not by ids, which are eight bytes each and took longer than all the rest.
        marks = np.unpackbits(some, count=len(piece), bitorder="little").view(np.bool_)
        chosen = piece[marks]
        out[end : end + len(chosen)] = chosen
        end += len(chosen)
    return out[:end]


def _pieces(logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [logits[begin : begin + _PIECE] for begin in range(0, len(logits), _PIECE)]
