"""The paged variant's bookkeeping: sharing, copies, eviction, and nothing lost on the way."""

from __future__ import annotations

import random

import pytest

from appliance.backends.base import Slot
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.block_pool import BLOCK_SIZE

BYTES_PER_BLOCK = 1000


def cache(num_blocks: int = 16, max_slots: int = 4) -> BlockKVCache:
    return BlockKVCache(
        num_blocks=num_blocks,
        max_slots=max_slots,
        max_model_len=num_blocks * BLOCK_SIZE,
        bytes_per_block=BYTES_PER_BLOCK,
    )


def start(kv: BlockKVCache, token_ids: list[int]) -> tuple[Slot, int]:
    """Seat a sequence and compute all of it; its slot, and how many tokens were known."""
    allocation = kv.allocate(token_ids)
    assert allocation is not None
    rest = token_ids[allocation.num_cached_tokens :]
    assert kv.reserve(allocation.slot, len(rest))
    kv.commit(allocation.slot, rest)
    kv.check_integrity()
    return allocation.slot, allocation.num_cached_tokens


def visit(kv: BlockKVCache, token_ids: list[int]) -> int:
    """A sequence that comes, is computed and goes; how many of its tokens were known."""
    slot, num_cached = start(kv, token_ids)
    kv.free(slot, keep_prefix=True)
    kv.check_integrity()
    return num_cached


def text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


def test_full_blocks_are_shared_by_sequences_that_run_together() -> None:
    kv = cache()
    prompt = text(1, 3 * BLOCK_SIZE + 5)
    first, known = start(kv, prompt)
    assert known == 0
    second, known = start(kv, prompt)
    assert known == len(prompt) - 1
    shared = set(kv.block_indices(first)) & set(kv.block_indices(second))
    assert len(shared) == 3
    assert kv.block_indices(first)[-1] != kv.block_indices(second)[-1], "written to by both"


def test_a_text_left_in_the_middle_of_a_block_goes_on_in_a_copy() -> None:
    kv = cache()
    prompt = text(1, 2 * BLOCK_SIZE)
    first, _ = start(kv, prompt)
    other = [*prompt[: BLOCK_SIZE + 10], *text(2, 20)]
    second, known = start(kv, other)
    assert known == BLOCK_SIZE + 10
    assert kv.take_copies() == [(kv.block_indices(first)[1], kv.block_indices(second)[1])]
    assert kv.take_copies() == []


def test_many_conversations_are_known_at_once() -> None:
    kv = cache(num_blocks=16)
    conversations = [text(seed, 2 * BLOCK_SIZE) for seed in range(5)]
    assert [visit(kv, c) for c in conversations] == [0] * 5
    assert [visit(kv, [*c, 1, 2]) for c in conversations] == [2 * BLOCK_SIZE] * 5


def test_the_least_recently_used_text_is_forgotten_from_its_end() -> None:
    kv = cache(num_blocks=6)
    old, new = text(1, 3 * BLOCK_SIZE), text(2, 3 * BLOCK_SIZE)
    visit(kv, old)
    visit(kv, new)
    visit(kv, text(3, BLOCK_SIZE))
    assert visit(kv, [*new, 5]) == len(new)
    kv = cache(num_blocks=6)
    visit(kv, old)
    visit(kv, text(3, 4 * BLOCK_SIZE))
    assert visit(kv, [*old, 5]) == 2 * BLOCK_SIZE, "one of its blocks, the last one, was needed"


def test_running_sequences_lose_nothing_when_room_is_short() -> None:
    kv = cache(num_blocks=4)
    first, _ = start(kv, text(1, 2 * BLOCK_SIZE))
    second, _ = start(kv, text(2, 2 * BLOCK_SIZE))
    held = kv.block_indices(first) + kv.block_indices(second)
    assert len(set(held)) == 4
    assert not kv.reserve(first, 1)
    assert kv.allocate(text(3, 5)) is None
    kv.check_integrity()
    kv.free(second, keep_prefix=True)
    assert kv.reserve(first, 1)
    assert kv.block_indices(first)[:2] == held[:2]


def test_a_refused_sequence_leaves_its_prefix_known() -> None:
    kv = cache(num_blocks=4)
    prompt = text(1, 2 * BLOCK_SIZE)
    visit(kv, prompt)
    other, _ = start(kv, text(2, 2 * BLOCK_SIZE))
    assert kv.allocate([*prompt, *text(3, BLOCK_SIZE)]) is None
    kv.free(other, keep_prefix=False)
    assert visit(kv, [*prompt, 1]) == len(prompt)


def test_room_for_drafts_that_were_rejected_goes_back() -> None:
    kv = cache(num_blocks=3)
    prompt = text(1, BLOCK_SIZE - 2)
    drafting, _ = start(kv, prompt)
    other, _ = start(kv, text(2, BLOCK_SIZE))
    assert kv.reserve(drafting, 8)
    assert len(kv.block_indices(drafting)) == 2
    assert not kv.reserve(other, 1), "the drafts have the last block"
    kv.commit(drafting, [7])
    kv.check_integrity()
    assert len(kv.block_indices(drafting)) == 1
    assert kv.reserve(other, 1)
    assert not kv.reserve(drafting, 8)
    assert kv.reserve(drafting, 1)
    kv.commit(drafting, [8])
    assert kv.token_ids(drafting, BLOCK_SIZE) == [*prompt, 7, 8]
    for slot in (drafting, other):
        kv.free(slot, keep_prefix=True)
    assert visit(kv, [*prompt, 7, 8, 9]) == BLOCK_SIZE


def test_children_of_forgotten_content_are_not_taken_for_children_of_the_new() -> None:
    """A block's place is its parent's content: reusing the parent's block must not adopt them."""
    kv = cache(num_blocks=3)
    tail = text(9, BLOCK_SIZE)
    visit(kv, [*text(1, BLOCK_SIZE), *tail])
    for seed in range(2, 8):
        head = text(seed, BLOCK_SIZE)
        assert visit(kv, [*head, *tail]) == 0


def test_bytes_follow_the_blocks() -> None:
    kv = cache()
    visit(kv, text(1, BLOCK_SIZE + 1))
    assert kv.stats().num_bytes == 2 * BYTES_PER_BLOCK
    assert kv.stats().num_tokens == BLOCK_SIZE + 1


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_the_books_add_up(seed: int) -> None:
    """Random traffic over shared beginnings; what is called known is always the same text."""
    choose = random.Random(seed)
    kv = cache(num_blocks=12, max_slots=3)
    beginnings = [text(i, choose.randrange(1, 80)) for i in range(4)]
    running: dict[Slot, list[int]] = {}
    content: dict[int, list[int]] = {}

    def compute(slot: Slot, token_ids: list[int], begin: int) -> None:
        for source, target in kv.take_copies():
            content[target] = list(content[source])
        for position in range(begin, len(token_ids)):
            index = kv.block_indices(slot)[position // BLOCK_SIZE]
            block = content.setdefault(index, [])
            block[position % BLOCK_SIZE :] = [token_ids[position]]
        kv.commit(slot, token_ids[begin:])
        for position, token_id in enumerate(token_ids):
            held = content[kv.block_indices(slot)[position // BLOCK_SIZE]]
            assert held[position % BLOCK_SIZE] == token_id

    for _ in range(200):
        if running and choose.random() < 0.6:
            slot = choose.choice(list(running))
            if choose.random() < 0.5 and kv.reserve(slot, 1):
                running[slot].append(choose.randrange(1000))
                compute(slot, running[slot], len(running[slot]) - 1)
            else:
                del running[slot]
                kv.free(slot, keep_prefix=choose.random() < 0.9)
        else:
            prompt = [*choose.choice(beginnings), *text(choose.randrange(9), 20)]
            allocation = kv.allocate(prompt)
            if allocation is not None:
                begin = allocation.num_cached_tokens
                if kv.reserve(allocation.slot, len(prompt) - begin):
                    running[allocation.slot] = prompt
                    compute(allocation.slot, prompt, begin)
                else:
                    kv.free(allocation.slot, keep_prefix=True)
        kv.check_integrity()


def test_bytes_are_told_by_what_they_are_for() -> None:
    kv = cache()
    slot, _ = start(kv, list(range(40)))
    kv.count_also("state", lambda: 5)
    assert kv.stats().kinds == {"running": 2 * BYTES_PER_BLOCK, "prefix": 0, "state": 5}
    kv.free(slot, keep_prefix=True)
    stats = kv.stats()
    assert stats.kinds == {"running": 0, "prefix": 2 * BYTES_PER_BLOCK, "state": 5}
    assert stats.num_bytes == 2 * BYTES_PER_BLOCK + 5
