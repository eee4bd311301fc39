"""Small working implementations that stand in for the expensive ones; nothing here is a mock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Allocation, Backend, Chunk, KVStats, RunnerLimits, Slot
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.errors import ApplianceError, BackendError

NextToken = Callable[[Sequence[int]], int]


def echo_sum(token_ids: Sequence[int]) -> int:
    """A "model" whose next token depends on every token before it, so that stale KV shows."""
    value = 7
    for token_id in token_ids:
        value = (value * 31 + token_id + 1) % 65521
    return value % 256


class FakeKVCache:
    """Several slots; a freed one keeps its tokens for the next sequence that shares them."""

    def __init__(self, max_slots: int, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self.rows: list[list[int]] = [[] for _ in range(max_slots)]
        self.used: set[int] = set()
        self.refuse_reserve: set[int] = set()
        self.num_queried = 0
        self.num_hit = 0

    def allocate(self, token_ids: Sequence[int]) -> Allocation | None:
        free = [i for i in range(len(self.rows)) if i not in self.used]
        if not free or len(token_ids) > self.max_model_len:
            return None
        best = max(free, key=lambda i: _shared(self.rows[i], token_ids))
        cached = min(_shared(self.rows[best], token_ids), len(token_ids) - 1)
        del self.rows[best][cached:]
        self.used.add(best)
        self.num_queried += len(token_ids)
        self.num_hit += cached
        return Allocation(Slot(best), cached)

    def reserve(self, slot: Slot, num_tokens: int) -> bool:
        if slot in self.refuse_reserve:
            return False
        return len(self.rows[slot]) + num_tokens <= self.max_model_len

    def commit(self, slot: Slot, token_ids: Sequence[int]) -> None:
        assert slot in self.used
        self.rows[slot].extend(token_ids)

    def free(self, slot: Slot, *, keep_prefix: bool) -> None:
        if slot not in self.used:
            return
        self.used.discard(slot)
        if not keep_prefix:
            self.rows[slot].clear()

    def stats(self) -> KVStats:
        tokens = sum(len(row) for row in self.rows)
        return KVStats(len(self.used), tokens, tokens, self.num_queried, self.num_hit)

    def check_integrity(self) -> None:
        assert all(len(row) <= self.max_model_len for row in self.rows)
        assert self.used <= set(range(len(self.rows)))


class FakeRunner:
    """Computes logits that put all weight on `next_token(tokens so far)`.

    Holds its own copy of every slot's tokens, as a real one holds KV: a chunk that does not start
    where its slot ends, or behind a hole, is an error here, where a real one would answer nonsense.
    `step_s` slows every pass; `gate`, when cleared, holds passes back, and `held` is set while one
    waits there; passes whose numbers (from 0) are in `hold_at` clear the gate themselves, until
    `release()`; `fail_after` makes the n-th pass fail.
    """

    def __init__(
        self,
        next_token: NextToken = echo_sum,
        *,
        max_slots: int = 4,
        max_model_len: int = 512,
        vocab_size: int = 300,
        mixes_phases: bool = False,
        pads_rows: bool = False,
        step_s: float = 0.0,
        fail_after: int | None = None,
    ) -> None:
        self.limits = RunnerLimits(max_slots, max_model_len, vocab_size, mixes_phases, pads_rows)
        self.next_token = next_token
        self.step_s = step_s
        self.fail_after = fail_after
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        self.hold_at: set[int] = set()
        self.passes: list[tuple[Chunk, ...]] = []
        self.num_idle = 0
        self.closed = False
        self._rows: list[list[int]] = [[] for _ in range(max_slots)]

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        assert chunks and not self.closed
        assert len({chunk.slot for chunk in chunks}) == len(chunks) <= self.limits.max_slots
        if not self.limits.mixes_phases and len(chunks) > 1:
            # Each the last token and drafts behind it; a prompt's chunk has one row of logits.
            assert all(len(chunk.token_ids) == chunk.num_logits for chunk in chunks)
        if len(self.passes) in self.hold_at:
            self.gate.clear()
        if not self.gate.is_set():
            self.held.set()
            self.gate.wait()
            self.held.clear()
        time.sleep(self.step_s)
        self.passes.append(tuple(chunks))
        if self.fail_after is not None and len(self.passes) > self.fail_after:
            raise BackendError("the forward pass failed: told to")
        logits = [row for chunk in chunks for row in self._compute(chunk)]
        return np.array(logits, dtype=np.float32).reshape(len(logits), self.limits.vocab_size)

    def release(self) -> None:
        """Let the pass that is held go on; `held` tells of the next one from here on."""
        self.held.clear()
        self.gate.set()

    def _compute(self, chunk: Chunk) -> list[NDArray[np.float32]]:
        row = self._rows[chunk.slot]
        assert chunk.start <= len(row), "a hole in the KV"
        del row[chunk.start :]
        logits = []
        for i, token_id in enumerate(chunk.token_ids):
            row.append(token_id)
            if len(chunk.token_ids) - i <= chunk.num_logits:
                logits.append(self.logits_behind(row))
        return logits

    def logits_behind(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """What the model says behind these tokens, float32 `(vocab_size,)`."""
        logits = np.full(self.limits.vocab_size, -20, dtype=np.float32)
        logits[self.next_token(token_ids)] = 20
        return logits

    def idle(self) -> None:
        self.num_idle += 1

    def close(self) -> None:
        self.closed = True


class FakeConstraint:
    """A rule that is a function: which ids may follow those of the answer so far, none at its end.

    Taking a token that is not allowed, or asking a complete one, is an error here. `fail_after`
    tokens it cannot be followed any further.
    """

    def __init__(
        self,
        may_follow: Callable[[Sequence[int]], Collection[int]],
        *,
        vocab_size: int = 300,
        fail_after: int | None = None,
    ) -> None:
        self.may_follow = may_follow
        self.vocab_size = vocab_size
        self.fail_after = fail_after
        self.accepted: list[int] = []

    def allowed(self) -> bytes:
        assert not self.is_complete
        allowed = np.zeros(self.vocab_size, dtype=np.bool_)
        allowed[list(self.may_follow(self.accepted))] = True
        return np.packbits(allowed, bitorder="little").tobytes()

    def accept(self, token_id: int) -> None:
        assert token_id in self.may_follow(self.accepted)
        if self.fail_after is not None and len(self.accepted) >= self.fail_after:
            raise ApplianceError("the rule cannot be followed: told so")
        self.accepted.append(token_id)

    @property
    def is_complete(self) -> bool:
        return not self.may_follow(self.accepted)


class FakeBlockRunner(FakeRunner):
    """Takes what a slot begins with from where its books say that it is, as the real ones do."""

    def __init__(self, kv: BlockKVCache, **settings: Any) -> None:
        super().__init__(**settings)
        self.kv = kv

    def _compute(self, chunk: Chunk) -> list[NDArray[np.float32]]:
        self._rows[chunk.slot][:] = self.kv.token_ids(chunk.slot, chunk.start)
        return super()._compute(chunk)


def fake_backend(runner: FakeRunner | None = None) -> Backend:
    """A backend of the two, ready for `Engine` or `create_app`."""
    runner = runner or FakeRunner()
    kv = FakeKVCache(runner.limits.max_slots, runner.limits.max_model_len)
    return Backend(kv, runner, description="fake")


def scripted(answer_ids: Sequence[int], prompt_end: Sequence[int]) -> NextToken:
    """A "model" that answers `answer_ids` behind the last `prompt_end`, whatever was asked."""

    def next_token(token_ids: Sequence[int]) -> int:
        length = len(prompt_end)
        for start in range(len(token_ids) - length, -1, -1):
            if list(token_ids[start : start + length]) == list(prompt_end):
                said = len(token_ids) - start - length
                return answer_ids[said] if said < len(answer_ids) else answer_ids[-1]
        return answer_ids[-1]

    return next_token


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
