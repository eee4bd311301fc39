"""A pool of KV blocks that remembers what its unused ones hold.

A block is `BLOCK_SIZE` consecutive tokens of one sequence. Its place in the text is given by its
parent, the block before it: `(parent, tokens)` names its content exactly, since a token's keys and
values depend on all tokens before it. Blocks that nobody refers to stay findable until they are
needed for something else, least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from appliance.backends.shared_prefix import shared_length

BLOCK_SIZE = 32
"""Tokens per block; what OpenVINO's CPU plugin has its cache tensors made for."""

ROOT = 0
"""The parent of a sequence's first block."""


@dataclass(slots=True, eq=False)
class Block:
    """One block. `index` is its place in the cache tensors and never changes.

    `uid` is new each time its content is begun anew, so that a child of the old content cannot be
    taken for a child of the new one. `token_ids` are those whose KV is computed.
    """

    index: int
    uid: int = ROOT
    parent_uid: int = ROOT
    num_refs: int = 0
    token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KnownBlock:
    """What one block holds. `parent_uid` None: a text begins with it."""

    uid: int
    parent_uid: int | None
    index: int
    token_ids: tuple[int, ...]


class BlockPool:
    """All blocks: empty, idle (known content, no reference) or referred to."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._empty = [Block(index) for index in reversed(range(num_blocks))]
        self._idle: OrderedDict[int, Block] = OrderedDict()
        self._children: defaultdict[int, list[Block]] = defaultdict(list)
        self._last_uid = ROOT

    @property
    def num_available(self) -> int:
        """Blocks that `take` can give, those with known content included."""
        return len(self._empty) + len(self._idle)

    @property
    def num_filled(self) -> int:
        """Blocks that hold something, or are about to."""
        return self.num_blocks - len(self._empty)

    @property
    def num_idle(self) -> int:
        """Blocks with known content that nobody refers to."""
        return len(self._idle)

    @property
    def num_tokens(self) -> int:
        """Tokens in all blocks, those that several sequences use counted once."""
        return sum(len(block.token_ids) for blocks in self._children.values() for block in blocks)

    def take(self, parent_uid: int) -> Block:
        """A block to be filled behind `parent_uid`; there must be one available."""
        if self._empty:
            block = self._empty.pop()
        else:
            _, block = self._idle.popitem(last=False)
            self._forget(block)
        self._last_uid += 1
        block.uid, block.parent_uid, block.num_refs = self._last_uid, parent_uid, 1
        self._children[parent_uid].append(block)
        return block

    def share(self, block: Block) -> None:
        """One more reference to a block that `match` found."""
        if block.num_refs == 0:
            del self._idle[block.index]
        block.num_refs += 1

    def release(self, block: Block, *, keep: bool) -> None:
        """One reference less; the last one leaves the content findable if `keep`."""
        assert block.num_refs > 0
        block.num_refs -= 1
        if block.num_refs:
            return
        if keep and block.token_ids:
            self._idle[block.index] = block
        else:
            self._forget(block)
            self._empty.append(block)

    def match(self, parent_uid: int, token_ids: Sequence[int]) -> tuple[Block, int] | None:
        """The child of `parent_uid` that begins most like `token_ids`, and how far it does."""
        best, longest = None, 0
        for child in self._children.get(parent_uid, ()):
            length = shared_length(child.token_ids, token_ids)
            if length > longest:
                best, longest = child, length
        return None if best is None else (best, longest)

    def known(self, max_blocks: int) -> list[KnownBlock]:
        """The most recently used blocks that hold something, parents before their children."""
        used = [b for blocks in self._children.values() for b in blocks if b.num_refs]
        # A block is begun after its parent; and it is given back before it, so that among the idle
        # ones the parent is the newer one.
        blocks = [*sorted(used, key=lambda block: block.uid), *reversed(self._idle.values())]
        return [
            KnownBlock(
                block.uid,
                None if block.parent_uid == ROOT else block.parent_uid,
                block.index,
                tuple(block.token_ids),
            )
            for block in blocks
            if block.token_ids
        ][:max_blocks]

    def restore(self, known: Sequence[tuple[int | None, Sequence[int]]]) -> list[int]:
        """Fill empty blocks with what `known` returned once; the places of those that had room.

        Each is told by its parent's position in `known` and its tokens, most recently used first.
        """
        blocks: list[Block] = []
        for parent, token_ids in known[: len(self._empty)]:
            block = self.take(ROOT if parent is None else blocks[parent].uid)
            block.token_ids.extend(token_ids)
            blocks.append(block)
        for block in reversed(blocks):
            self.release(block, keep=True)
        return [block.index for block in blocks]

    def check_integrity(self, held: Mapping[int, int]) -> None:
        """Raise AssertionError unless all blocks are in place; `held`: index -> references."""
        children = [block for blocks in self._children.values() for block in blocks]
        assert len(self._empty) + len(children) == self.num_blocks
        assert len({block.index for block in (*self._empty, *children)}) == self.num_blocks
        for block in children:
            assert block.num_refs == held.get(block.index, 0)
            assert (block.index in self._idle) == (block.num_refs == 0)
            assert len(block.token_ids) <= BLOCK_SIZE

    def _forget(self, block: Block) -> None:
        siblings = self._children[block.parent_uid]
        siblings.remove(block)
        if not siblings:
            del self._children[block.parent_uid]
        block.token_ids.clear()
