"""The stateful variant's bookkeeping: one row that outlives the sequence which filled it."""

from __future__ import annotations

import pytest

from appliance.backends.base import Allocation, Slot
from appliance.backends.stateful.kv import StatefulKVCache

BYTES_PER_TOKEN = 7


@pytest.fixture
def kv() -> StatefulKVCache:
    return StatefulKVCache(16, BYTES_PER_TOKEN)


def seat(kv: StatefulKVCache, *token_ids: int) -> int:
    """Seat a sequence, compute all of it, leave; returns how many tokens were cached."""
    allocation = kv.allocate(token_ids)
    assert allocation is not None
    kv.commit(allocation.slot, token_ids[allocation.num_cached_tokens :])
    kv.free(allocation.slot, keep_prefix=True)
    kv.check_integrity()
    return allocation.num_cached_tokens


def test_only_the_shared_beginning_is_kept(kv: StatefulKVCache) -> None:
    assert seat(kv, 1, 2, 3, 4) == 0
    assert seat(kv, 1, 2, 9, 4) == 2
    # 3 is gone since the row was cut behind 2.
    assert seat(kv, 1, 2, 3, 4) == 2
    assert seat(kv, 8, 2, 3, 4) == 0
    assert seat(kv, 1, 2, 3, 4) == 0


def test_a_prompt_that_the_row_holds_whole_leaves_one_token_to_compute(kv: StatefulKVCache) -> None:
    seat(kv, 1, 2, 3, 4)
    assert seat(kv, 1, 2, 3, 4) == 3
    assert seat(kv, 1, 2) == 1
    assert kv.stats().num_tokens == 2


def test_a_short_beginning_is_not_kept_in_front_of_a_long_rest() -> None:
    """A chat template's first tokens are in every prompt: they cost less than the holes behind."""
    kv = StatefulKVCache(1024, BYTES_PER_TOKEN)
    first = range(500)
    assert seat(kv, *first) == 0
    assert seat(kv, *range(15), 1000, 1001) == 0
    assert seat(kv, *first) == 15, "a short rest leaves few holes"
    assert seat(kv, *range(16), 1000, 1001) == 16


def test_a_prompt_of_one_token_is_always_computed(kv: StatefulKVCache) -> None:
    seat(kv, 1)
    assert seat(kv, 1) == 0


def test_bytes_and_tokens_follow_the_row(kv: StatefulKVCache) -> None:
    seat(kv, 1, 2, 3, 4)
    stats = kv.stats()
    assert (stats.num_tokens, stats.num_bytes) == (4, 4 * BYTES_PER_TOKEN)
    assert stats.num_slots_used == 0


def test_one_sequence_at_a_time(kv: StatefulKVCache) -> None:
    assert kv.allocate((1, 2)) == Allocation(Slot(0), 0)
    assert kv.allocate((1, 2)) is None
    kv.free(Slot(0), keep_prefix=False)
    assert kv.allocate((1, 2)) is not None


def test_a_seat_that_was_refused_leaves_the_row_alone(kv: StatefulKVCache) -> None:
    seat(kv, 1, 2, 3)
    before = kv.stats()
    assert kv.allocate(tuple(range(17))) is None
    assert kv.stats() == before
    assert seat(kv, 1, 2, 3) == 2


def test_tokens_are_committed_by_who_sits_there(kv: StatefulKVCache) -> None:
    with pytest.raises(AssertionError):
        kv.commit(Slot(0), (1,))


def test_books_that_do_not_add_up_are_noticed(kv: StatefulKVCache) -> None:
    kv.allocate((1,))
    kv.commit(Slot(0), range(17))
    with pytest.raises(AssertionError):
        kv.check_integrity()
