"""The KV seam: above it is decided which tokens run, below it where their KV lives.

The scheduler talks to a `KVCacheManager` (bookkeeping, no tensors) and a `ModelRunner` (tensors, no
policy). A variant is one folder that implements both; it knows nothing of requests or text.
All calls come from the engine thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Slot = NewType("Slot", int)
"""A running sequence's seat in the backend; its number means nothing above the seam."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one sequence computes in one step.

    `token_ids` holds one id in a decode step, several in a (chunked) prefill or when drafts are
    verified. `start` is the position of its first id; KV at and after `start` is discarded before
    anything is computed. `num_logits` is how many of the last positions need logits: 0, 1, or all
    drafts plus one.
    """

    slot: Slot
    token_ids: tuple[int, ...]
    start: int
    num_logits: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """A seat for a sequence, of whose tokens the first `num_cached_tokens` need no computing."""

    slot: Slot
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What a variant can do; the scheduler asks this and never which variant it is.

    `max_model_len` counts prompt and answer together. `mixes_phases`: chunks of prompts and of
    sequences that decode may share one forward pass. Where they may not, a pass is either one chunk
    of a prompt or the chunks of sequences that decode: the last token of each and the drafts behind
    it, all with logits. `pads_rows`: a pass computes every row to the length of its longest chunk.
    `position_cost`: how much longer a pass takes for each token in a chunk of several and each
    position before that chunk, in decode steps of one sequence.
    """

    max_slots: int
    max_model_len: int
    vocab_size: int
    mixes_phases: bool
    pads_rows: bool = False
    position_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class KVStats:
    """Tokens and bytes held now; prompt tokens asked for, and found, since the start.

    `kinds` says what the bytes are, where a variant has several kinds; they add up to
    `num_bytes`.
    """

    num_slots_used: int
    num_tokens: int
    num_bytes: int
    num_queried_tokens: int
    num_hit_tokens: int
    kinds: Mapping[str, int] | None = None

    @property
    def bytes_by_kind(self) -> Mapping[str, int]:
        return {"kv": self.num_bytes} if self.kinds is None else self.kinds


class KVCacheManager(Protocol):
    """Who holds which slot and which tokens' KV is there. Pure Python, never touches a tensor."""

    def allocate(self, token_ids: Sequence[int]) -> Allocation | None:
        """Seat a sequence that starts with `token_ids`, or return None: no room now, ask again.

        At least one of `token_ids` is left to compute, since its logits are needed.
        """

    def reserve(self, slot: Slot, num_tokens: int) -> bool:
        """Make sure `slot` can hold `num_tokens` more, until the next `commit`.

        False: no room now, preempt or wait.
        """

    def commit(self, slot: Slot, token_ids: Sequence[int]) -> None:
        """Record that KV of `token_ids` was computed behind what `slot` held.

        Room that was reserved for more than those is free again.
        """

    def free(self, slot: Slot, *, keep_prefix: bool) -> None:
        """Give the seat back; with `keep_prefix` its KV may serve later sequences. Idempotent."""

    def stats(self) -> KVStats:
        """A snapshot of the counters."""

    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not add up; cheap enough to call when idle."""


class ModelRunner(Protocol):
    """Owns the compiled model and every byte of KV."""

    limits: RunnerLimits

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Compute `chunks`, whose order does not matter for the result.

        Returns logits, float32 `(sum of num_logits, vocab_size)`, in the order of `chunks`; the
        array is valid until the next call. Raises `BackendError` when the computation fails, after
        which the runner must not be used again.
        """

    def idle(self) -> None:
        """Nothing is scheduled: a moment for housekeeping of at most some 50 ms."""

    def close(self) -> None:
        """Give back the model and its memory."""


class SavedPrefixes(Protocol):
    """Known prefixes on disk, for the next start."""

    def save_if_due(self) -> None:
        """Save every few minutes what is new; called after every step, nearly always for nothing.

        Never raises for the disk.
        """

    def close(self) -> None:
        """Save for the last time; returns when it is done."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One variant, ready to run: the two halves of the seam and the words to describe it.

    `prefixes` None: nothing is saved.
    """

    kv: KVCacheManager
    runner: ModelRunner
    description: str
    prefixes: SavedPrefixes | None = None

    def step_done(self) -> None:
        """Housekeeping between two steps, or when none is scheduled."""
        if self.prefixes is not None:
            self.prefixes.save_if_due()

    def idle(self) -> None:
        """Nothing is scheduled: a moment for housekeeping of at most some 50 ms."""
        self.runner.idle()
        self.kv.check_integrity()
        self.step_done()

    def save(self) -> None:
        """No step comes any more: save prefixes for the next start."""
        if self.prefixes is not None:
            self.prefixes.close()
