"""KV of all known tokens in host memory, block by block, to fill rows of the state from."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.backends.block_pool import BLOCK_SIZE

Precision = Literal["u8", "f16", "f32"]

_LEVELS = np.float32(255)
# A head whose 64 values are all the same has no range to divide by.
_SMALLEST_STEP = np.float32(1e-12)
# What is read passes through memory for so many blocks: 256 KB of a 0.5B model, in reach of a
# core's own cache. Memory for a whole text, new each time, would be four times as slow.
_BLOCKS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's keys and values are: `num_variables` is two for each layer."""

    num_variables: int
    num_heads: int
    head_dim: int


class Storage(Protocol):
    """How values lie in memory. Every array's first axis is the block."""

    arrays: tuple[NDArray[Any], ...]

    def put(
        self, blocks: NDArray[np.intp], offsets: NDArray[np.intp], kv: NDArray[np.float32]
    ) -> None:
        """Keep `kv`, `(tokens, num_variables, num_heads, head_dim)`, each in its block, there."""

    def get(self, blocks: NDArray[np.intp], variable: int, out: NDArray[np.float32]) -> None:
        """Fill `out`, `(len(blocks), num_heads, BLOCK_SIZE, head_dim)`, with one variable."""


class HostBlocks:
    """`num_blocks` blocks of `BLOCK_SIZE` tokens.

    `precision` u8 keeps, for each token and head, 8-bit steps between the smallest and the largest
    value, as OpenVINO's 8-bit KV cache itself does; f16 and f32 keep the values.
    """

    def __init__(self, num_blocks: int, shape: KVShape, precision: Precision) -> None:
        self.shape = shape
        self._storage = _storage(num_blocks, shape, precision)
        block = (shape.num_heads, BLOCK_SIZE, shape.head_dim)
        self._passage = np.empty((_BLOCKS_AT_ONCE, *block), np.float32)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All that the blocks are; every array's first axis is the block."""
        return self._storage.arrays

    @property
    def bytes_per_token(self) -> int:
        return sum(int(array[0].nbytes) for array in self.arrays) // BLOCK_SIZE

    @staticmethod
    def block_bytes(shape: KVShape, precision: Precision) -> int:
        """What one block takes."""
        return sum(array.nbytes for array in _storage(1, shape, precision).arrays)

    def copy(self, source: int, target: int) -> None:
        """Make block `target` equal to block `source`."""
        for array in self.arrays:
            array[target] = array[source]

    def write(
        self, blocks: NDArray[np.intp], offsets: NDArray[np.intp], kv: NDArray[np.float32]
    ) -> None:
        """Put tokens, `kv` `(tokens, num_variables, num_heads, head_dim)`, where they belong.

        `blocks` and `offsets`: each token's block, and its place in there.
        """
        self._storage.put(blocks, offsets, kv)

    def read(
        self, variable: int, table: Sequence[int], num_tokens: int, out: NDArray[np.float32]
    ) -> None:
        """Fill `out`, `(num_heads, num_tokens or more, head_dim)`, from the beginning.

        `table` holds the text's blocks in order.
        """
        for begin in range(0, num_tokens, _BLOCKS_AT_ONCE * BLOCK_SIZE):
            end = min(begin + _BLOCKS_AT_ONCE * BLOCK_SIZE, num_tokens)
            blocks = table[begin // BLOCK_SIZE : -(-end // BLOCK_SIZE)]
            values = self._passage[: len(blocks)]
            self._storage.get(np.asarray(blocks, dtype=np.intp), variable, values)
            num_whole, rest = divmod(end - begin, BLOCK_SIZE)
            whole = values[:num_whole].swapaxes(0, 1)
            out[:, begin : end - rest].reshape(whole.shape)[:] = whole
            if rest:
                out[:, end - rest : end] = values[num_whole, :, :rest]


class _Floats:
    """The values themselves."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> None:
        self._values = _untouched(shape, dtype)
        self.arrays: tuple[NDArray[Any], ...] = (self._values,)

    def put(
        self, blocks: NDArray[np.intp], offsets: NDArray[np.intp], kv: NDArray[np.float32]
    ) -> None:
        self._values[blocks, :, :, offsets] = kv

    def get(self, blocks: NDArray[np.intp], variable: int, out: NDArray[np.float32]) -> None:
        out[:] = self._values[blocks, variable]


class _Steps:
    """8-bit steps between the smallest and the largest value of each token and head."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._steps = _untouched(shape, np.uint8)
        self._smallest = _untouched((*shape[:-1], 1), np.float32)
        self._size = _untouched((*shape[:-1], 1), np.float32)
        self.arrays: tuple[NDArray[Any], ...] = (self._steps, self._smallest, self._size)

    def put(
        self, blocks: NDArray[np.intp], offsets: NDArray[np.intp], kv: NDArray[np.float32]
    ) -> None:
        smallest = kv.min(axis=-1, keepdims=True)
        size = np.maximum((kv.max(axis=-1, keepdims=True) - smallest) / _LEVELS, _SMALLEST_STEP)
        steps = kv - smallest
        steps /= size
        place = (blocks, slice(None), slice(None), offsets)
        self._steps[place] = np.rint(steps, out=steps)
        self._smallest[place] = smallest
        self._size[place] = size

    def get(self, blocks: NDArray[np.intp], variable: int, out: NDArray[np.float32]) -> None:
        out[:] = self._steps[blocks, variable]
        out *= self._size[blocks, variable]
        out += self._smallest[blocks, variable]


def _untouched(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that cost no memory until they are written, and then no more than a page.

    numpy would ask for large pages. To make one of 2 MB takes the kernel 5 ms here, in the middle
    of a prompt, and few of its tokens are written at that time.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)


def _storage(num_blocks: int, shape: KVShape, precision: Precision) -> Storage:
    whole = (num_blocks, shape.num_variables, shape.num_heads, BLOCK_SIZE, shape.head_dim)
    if precision == "u8":
        return _Steps(whole)
    return _Floats(whole, np.float16 if precision == "f16" else np.float32)
