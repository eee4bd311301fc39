"""What is asked of whole vocabularies, against full sorts and sums in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.logits import BLOCK, are_largest, at_least, block_sums, compress, largest

# On both sides of every limit between ways to go, and of a whole number of blocks and groups.
SIZES = (1, 2, 255, 256, 257, 4096, 8191, 8192, 8193, 24_576, 24_577, 49_300)


def logits_of(seed: int, size: int, levels: int | None) -> NDArray[np.float32]:
    """With `levels`, as many different values at most, so that most of them are ties."""
    random = np.random.default_rng(seed)
    if levels is not None:
        return random.integers(0, levels, size).astype(np.float32)
    return random.normal(0, 3, size).astype(np.float32)


def first_of_all(logits: NDArray[np.float32], num: int) -> list[int]:
    """The ids of the `num` largest, ascending, by a full sort that keeps equals in order."""
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    return sorted(order[:num].tolist())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from(SIZES),
    levels=st.none() | st.sampled_from([1, 2, 5, 3000]),
    num=st.sampled_from([1, 2, 20, 255, 4095, 4096, 4097, 30_000]),
)
def test_the_largest_are_those_of_a_full_sort(
    seed: int, size: int, levels: int | None, num: int
) -> None:
    logits = logits_of(seed, size, levels)
    expected = first_of_all(logits, num)
    assert largest(logits, num).tolist() == expected
    if num <= size:
        assert np.flatnonzero(are_largest(logits, num)).tolist() == expected


@pytest.mark.parametrize("where", [0, 8191, 8192, 49_151, 49_152, 49_299])
def test_the_largest_is_found_wherever_it_is(where: int) -> None:
    logits = logits_of(1, 49_300, None)
    logits[where] = 30
    assert largest(logits, 1).tolist() == [where]
    assert where in largest(logits, 20)


def test_infinite_logits_have_ranks_like_others() -> None:
    logits = np.full(20_000, -np.inf, dtype=np.float32)
    logits[[5, 9000, 19_999]] = [1, np.inf, 2]
    assert largest(logits, 2).tolist() == [9000, 19_999]
    assert largest(logits, 5).tolist() == [0, 1, 5, 9000, 19_999]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000), size=st.sampled_from(SIZES), levels=st.none() | st.sampled_from([5])
)
def test_at_least_is_inclusive_and_ascending(seed: int, size: int, levels: int | None) -> None:
    logits = logits_of(seed, size, levels)
    for bound in (float(logits[size // 2]), float(logits.max()), -100.0, 100.0):
        expected = [i for i, logit in enumerate(logits.tolist()) if logit >= bound]
        assert at_least(logits, bound).tolist() == expected


@pytest.mark.parametrize("temperature", [0.05, 0.7, 2.0])
@pytest.mark.parametrize("size", SIZES)
def test_block_sums_are_right_to_six_digits(size: int, temperature: float) -> None:
    logits = logits_of(2, size, None)
    exact = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    expected = [exact[begin : begin + BLOCK].sum() for begin in range(0, size, BLOCK)]
    sums = block_sums(logits, logits.max(), np.float32(temperature))
    assert sums.dtype == np.float64
    # The scaled logit of an unlikely token is off by some 1e-7 of itself, and so its weight.
    assert sums == pytest.approx(expected, rel=2e-5, abs=1e-30)
    assert sums.sum() == pytest.approx(exact.sum(), rel=1e-6)


@pytest.mark.parametrize("num_left_out", [0, 1, 20_000, 49_299])
@pytest.mark.parametrize("size", [49_152, 49_299, 49_300])
def test_compressing_within_the_same_memory_overwrites_nothing_too_early(
    size: int, num_left_out: int
) -> None:
    logits = logits_of(3, size, None)
    marks = np.ones(size, dtype=np.bool_)
    marks[np.random.default_rng(4).permutation(size)[:num_left_out]] = False
    bits = np.packbits(marks, bitorder="little")
    expected = logits[marks]
    assert np.array_equal(compress(logits, bits, out=np.empty_like(logits)), expected)
    assert np.array_equal(compress(logits, bits, out=logits), expected)
