"""KV in host memory: what is read is what was written, within its precision."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.block_pool import BLOCK_SIZE
from appliance.backends.stateful.host_blocks import HostBlocks, KVShape, Precision

SHAPE = KVShape(num_variables=4, num_heads=2, head_dim=64)
# Of values with standard deviation 1: half a step of 8 bits, half a unit in the last place.
TOLERANCES: dict[Precision, float] = {"u8": 0.02, "f16": 0.002, "f32": 0}


@pytest.fixture(params=sorted(TOLERANCES))
def precision(request: pytest.FixtureRequest) -> Precision:
    chosen: Precision = request.param
    return chosen


@pytest.fixture
def blocks(precision: Precision) -> HostBlocks:
    return HostBlocks(8, SHAPE, precision)


def values(num_tokens: int, seed: int = 0) -> NDArray[np.float32]:
    shape = (SHAPE.num_variables, SHAPE.num_heads, num_tokens, SHAPE.head_dim)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write(blocks: HostBlocks, table: list[int], start: int, text: NDArray[np.float32]) -> None:
    """Put `text` at the positions from `start` on."""
    positions = np.arange(start, start + text.shape[2])
    of_tokens = np.asarray(table)[positions // BLOCK_SIZE]
    blocks.write(of_tokens, positions % BLOCK_SIZE, text.transpose(2, 0, 1, 3))


def read(blocks: HostBlocks, table: list[int], num_tokens: int) -> NDArray[np.float32]:
    out = np.full((SHAPE.num_variables, SHAPE.num_heads, num_tokens + 3, SHAPE.head_dim), 7.0)
    out = out.astype(np.float32)
    for variable in range(SHAPE.num_variables):
        blocks.read(variable, table, num_tokens, out[variable])
    assert (out[:, :, num_tokens:] == 7).all(), "nothing is written behind the text"
    return out[:, :, :num_tokens]


@pytest.mark.parametrize("chunk", [1, 7, BLOCK_SIZE, 1000])
def test_a_text_written_in_chunks_is_read_whole(
    blocks: HostBlocks, precision: Precision, chunk: int
) -> None:
    text, table = values(3 * BLOCK_SIZE - 5), [6, 0, 3]
    for start in range(0, text.shape[2], chunk):
        write(blocks, table, start, text[:, :, start : start + chunk])
    for num_tokens in (1, BLOCK_SIZE, BLOCK_SIZE + 1, text.shape[2]):
        read_back = read(blocks, table, num_tokens)
        assert np.abs(read_back - text[:, :, :num_tokens]).max() <= TOLERANCES[precision]


@pytest.mark.parametrize("num_tokens", [16 * BLOCK_SIZE, 16 * BLOCK_SIZE + 1, 40 * BLOCK_SIZE - 3])
def test_a_long_text_is_read_whole(precision: Precision, num_tokens: int) -> None:
    blocks = HostBlocks(40, SHAPE, precision)
    text, table = values(num_tokens), [(7 * block) % 40 for block in range(40)]
    write(blocks, table, 0, text)
    assert np.abs(read(blocks, table, num_tokens) - text).max() <= TOLERANCES[precision]


def test_tokens_of_several_texts_are_written_together(
    blocks: HostBlocks, precision: Precision
) -> None:
    first, second = values(BLOCK_SIZE), values(BLOCK_SIZE, seed=1)
    for token in range(BLOCK_SIZE):
        kv = np.stack([first[:, :, token], second[:, :, token]])
        blocks.write(np.array([4, 1]), np.array([token, token]), kv)
    for block, text in ((4, first), (1, second)):
        assert np.abs(read(blocks, [block], BLOCK_SIZE) - text).max() <= TOLERANCES[precision]


def test_a_copy_goes_its_own_way(blocks: HostBlocks, precision: Precision) -> None:
    text, other = values(BLOCK_SIZE), values(BLOCK_SIZE, seed=1)
    write(blocks, [2], 0, text)
    blocks.copy(2, 5)
    write(blocks, [2], 10, other[:, :, 10:])
    assert np.abs(read(blocks, [5], BLOCK_SIZE) - text).max() <= TOLERANCES[precision]
    mixed = np.concatenate((text[:, :, :10], other[:, :, 10:]), axis=2)
    assert np.abs(read(blocks, [2], BLOCK_SIZE) - mixed).max() <= TOLERANCES[precision]


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-20])
def test_values_without_a_range(blocks: HostBlocks, value: float) -> None:
    text = np.full_like(values(2), value)
    write(blocks, [1], 0, text)
    assert np.allclose(read(blocks, [1], 2), value, atol=1e-6)


def test_a_block_takes_what_it_says() -> None:
    num_values = 4 * 2 * BLOCK_SIZE * 64
    assert HostBlocks.block_bytes(SHAPE, "f32") == 4 * num_values
    assert HostBlocks.block_bytes(SHAPE, "f16") == 2 * num_values
    # Two float32 for the 64 values of a head.
    assert HostBlocks.block_bytes(SHAPE, "u8") == num_values + num_values // 64 * 8
    three = HostBlocks(3, SHAPE, "u8")
    assert sum(array.nbytes for array in three.arrays) == 3 * HostBlocks.block_bytes(SHAPE, "u8")
    assert {len(array) for array in three.arrays} == {3}
