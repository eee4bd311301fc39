"""Bookkeeping of both variants: block tables, prefix reuse to the token, eviction.

Full blocks with the wanted content are shared as they are. Where a prompt leaves a known text in
the middle of a block, that block is copied and the copy goes on: the runner carries out the copies
this module orders before its next pass.

What a block's KV lies in is the runner's: a tensor that paged attention reads, or host memory from
which rows of a stateful KV cache are filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from appliance.backends.base import Allocation, KVStats, Slot
from appliance.backends.block_pool import BLOCK_SIZE, ROOT, Block, BlockPool, KnownBlock


@dataclass(slots=True)
class _Table:
    """One sequence's blocks in order; `num_tokens` of their tokens are computed.

    `seat` tells one sequence in a slot from the next one in it.
    """

    blocks: list[Block] = field(default_factory=list)
    num_tokens: int = 0
    seat: int = 0


class BlockKVCache:
    """Owns the block tables of up to `max_slots` sequences over one pool."""

    def __init__(
        self, *, num_blocks: int, max_slots: int, max_model_len: int, bytes_per_block: int
    ) -> None:
        self.num_blocks = num_blocks
        self._pool = BlockPool(num_blocks)
        self._max_model_len = max_model_len
        self._bytes_per_block = bytes_per_block
        self._free_slots = [Slot(index) for index in reversed(range(max_slots))]
        self._tables: dict[Slot, _Table] = {}
        self._copies: list[tuple[int, int]] = []
        self._elsewhere: dict[str, Callable[[], int]] = {}
        self._num_seated = 0
        self._num_queried_tokens = 0
        self._num_hit_tokens = 0

    def allocate(self, token_ids: Sequence[int]) -> Allocation | None:
        if not self._free_slots or len(token_ids) > self._max_model_len:
            return None
        table = self._matched(token_ids)
        num_needed = _num_blocks(len(token_ids)) - len(table.blocks)
        if num_needed > self._pool.num_available:
            self._release(table, keep=True)
            return None
        self._copy_rest(table, token_ids)
        slot = self._free_slots.pop()
        self._num_seated += 1
        table.seat = self._num_seated
        self._tables[slot] = table
        self._num_queried_tokens += len(token_ids)
        self._num_hit_tokens += table.num_tokens
        return Allocation(slot, table.num_tokens)

    def reserve(self, slot: Slot, num_tokens: int) -> bool:
        table = self._tables[slot]
        if table.num_tokens + num_tokens > self._max_model_len:
            return False
        num_needed = _num_blocks(table.num_tokens + num_tokens) - len(table.blocks)
        if num_needed > self._pool.num_available:
            return False
        for _ in range(num_needed):
            table.blocks.append(self._pool.take(_uid_behind(table.blocks)))
        return True

    def commit(self, slot: Slot, token_ids: Sequence[int]) -> None:
        table = self._tables[slot]
        for token_id in token_ids:
            block = table.blocks[table.num_tokens // BLOCK_SIZE]
            assert len(block.token_ids) == table.num_tokens % BLOCK_SIZE and block.num_refs == 1
            block.token_ids.append(token_id)
            table.num_tokens += 1
        # Room for drafts that were rejected goes back, or another sequence might be preempted for
        # want of it.
        while len(table.blocks) > _num_blocks(table.num_tokens):
            self._pool.release(table.blocks.pop(), keep=False)

    def free(self, slot: Slot, *, keep_prefix: bool) -> None:
        table = self._tables.pop(slot, None)
        if table is None:
            return
        self._release(table, keep=keep_prefix)
        self._free_slots.append(slot)

    def stats(self) -> KVStats:
        pool, size = self._pool, self._bytes_per_block
        kinds = {
            "running": (pool.num_filled - pool.num_idle) * size,
            "prefix": pool.num_idle * size,
            **{kind: num_bytes() for kind, num_bytes in self._elsewhere.items()},
        }
        return KVStats(
            num_slots_used=len(self._tables),
            num_tokens=pool.num_tokens,
            num_bytes=sum(kinds.values()),
            num_queried_tokens=self._num_queried_tokens,
            num_hit_tokens=self._num_hit_tokens,
            kinds=kinds,
        )

    def count_also(self, kind: str, num_bytes: Callable[[], int]) -> None:
        """Have `stats` count KV that lies elsewhere than in blocks."""
        self._elsewhere[kind] = num_bytes

    def check_integrity(self) -> None:
        self._pool.check_integrity(
            Counter(block.index for table in self._tables.values() for block in table.blocks)
        )
        for table in self._tables.values():
            assert table.num_tokens <= len(table.blocks) * BLOCK_SIZE

    def block_indices(self, slot: Slot) -> list[int]:
        """Where the slot's KV lies in the cache tensors, block by block. For the runner."""
        return [block.index for block in self._tables[slot].blocks]

    def known_blocks(self, max_blocks: int) -> list[KnownBlock]:
        """What the pool knows, most recently used first, parents before their children."""
        # A copy that is still to be carried out has its tokens already, and not yet its KV.
        unfinished = {target for _, target in self._copies}
        return [b for b in self._pool.known(max_blocks) if b.index not in unfinished]

    def restore_blocks(self, known: Sequence[tuple[int | None, Sequence[int]]]) -> list[int]:
        """See `BlockPool.restore`."""
        return self._pool.restore(known)

    def seat(self, slot: Slot) -> int | None:
        """A number that no other sequence has or had; None when nobody sits in `slot`."""
        table = self._tables.get(slot)
        return None if table is None else table.seat

    def seats(self) -> list[tuple[int, Slot]]:
        """Who sits where now."""
        return [(table.seat, slot) for slot, table in self._tables.items()]

    def token_ids(self, slot: Slot, num_tokens: int) -> list[int]:
        """The first `num_tokens` of the slot's tokens whose KV is computed."""
        blocks = self._tables[slot].blocks[: _num_blocks(num_tokens)]
        return list(chain.from_iterable(block.token_ids for block in blocks))[:num_tokens]

    def take_copies(self) -> list[tuple[int, int]]:
        """Copies (from, to) of whole blocks to be done, in this order, before the next pass.

        A block that was given to somebody else since is still copied as it was: between two passes
        nothing is written to a cache tensor but these copies.
        """
        copies, self._copies = self._copies, []
        return copies

    def _matched(self, token_ids: Sequence[int]) -> _Table:
        """Full blocks that hold a beginning of `token_ids`, referred to; one token stays out."""
        table = _Table()
        while table.num_tokens + BLOCK_SIZE < len(token_ids):
            wanted = token_ids[table.num_tokens : table.num_tokens + BLOCK_SIZE]
            found = self._pool.match(_uid_behind(table.blocks), wanted)
            if found is None or found[1] < BLOCK_SIZE:
                break
            self._pool.share(found[0])
            table.blocks.append(found[0])
            table.num_tokens += BLOCK_SIZE
        return table

    def _copy_rest(self, table: _Table, token_ids: Sequence[int]) -> None:
        """Go on from a block that begins like the rest, in a copy of it."""
        start, last = table.num_tokens, len(token_ids) - 1
        wanted = token_ids[start : min(start + BLOCK_SIZE, last)]
        parent_uid = _uid_behind(table.blocks)
        found = self._pool.match(parent_uid, wanted)
        if found is None:
            return
        source, length = found
        copy = self._pool.take(parent_uid)
        copy.token_ids.extend(wanted[:length])
        self._copies.append((source.index, copy.index))
        table.blocks.append(copy)
        table.num_tokens += length

    def _release(self, table: _Table, *, keep: bool) -> None:
        # The last block first, so that it is also the first to be forgotten: what is left of a
        # text is then always its beginning.
        for block in reversed(table.blocks):
            self._pool.release(block, keep=keep)


def _num_blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def _uid_behind(blocks: Sequence[Block]) -> int:
    return blocks[-1].uid if blocks else ROOT
