"""Bookkeeping of the stateful variant: one row of KV, that outlives the sequence in it."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.backends.base import Allocation, KVStats, Slot
from appliance.backends.shared_prefix import shared_length

_SLOT = Slot(0)

# So short a beginning is sooner computed anew, into an empty state, than kept in front of the holes
# that a long rest would leave: a token costs one millisecond, 1,000 holes cost a short prompt 30.
_SHORT_PREFIX = 16
_LONG_REST = 128


class StatefulKVCache:
    """Knows the token ids whose KV the row holds, and whether a sequence sits in it.

    A freed row keeps its tokens: the next sequence that begins the same way computes only the rest.
    """

    def __init__(self, max_model_len: int, bytes_per_token: int) -> None:
        self._max_model_len = max_model_len
        self._bytes_per_token = bytes_per_token
        self._row: list[int] = []
        self._in_use = False
        self._num_queried_tokens = 0
        self._num_hit_tokens = 0

    def allocate(self, token_ids: Sequence[int]) -> Allocation | None:
        if self._in_use or len(token_ids) > self._max_model_len:
            return None
        num_cached = min(shared_length(self._row, token_ids), len(token_ids) - 1)
        if num_cached < _SHORT_PREFIX and len(self._row) - num_cached > _LONG_REST:
            num_cached = 0
        del self._row[num_cached:]
        self._in_use = True
        self._num_queried_tokens += len(token_ids)
        self._num_hit_tokens += num_cached
        return Allocation(_SLOT, num_cached)

    def reserve(self, slot: Slot, num_tokens: int) -> bool:
        return len(self._row) + num_tokens <= self._max_model_len

    def commit(self, slot: Slot, token_ids: Sequence[int]) -> None:
        assert self._in_use and slot == _SLOT
        self._row.extend(token_ids)

    def free(self, slot: Slot, *, keep_prefix: bool) -> None:
        if not self._in_use:
            return
        self._in_use = False
        if not keep_prefix:
            self._row.clear()

    def stats(self) -> KVStats:
        return KVStats(
            num_slots_used=int(self._in_use),
            num_tokens=len(self._row),
            num_bytes=len(self._row) * self._bytes_per_token,
            num_queried_tokens=self._num_queried_tokens,
            num_hit_tokens=self._num_hit_tokens,
        )

    def check_integrity(self) -> None:
        assert len(self._row) <= self._max_model_len
        assert self._num_hit_tokens <= self._num_queried_tokens
