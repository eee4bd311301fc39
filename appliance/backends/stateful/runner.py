"""The stateful variant's forward pass: where each sequence's row is, and which rows go together.

A sequence begins in a batch of its own, so that its prompt costs nobody else anything. When it
decodes, its row joins the others: the weights are then read once for all of them. Whatever is
computed is also put into host memory, block by block; a known prefix is filled in from there, and
joining is filling one batch with all the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from appliance.backends.base import Chunk, RunnerLimits
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.shared_prefix import shared_length
from appliance.backends.stateful.batch import Batch, Row
from appliance.backends.stateful.host_blocks import HostBlocks
from appliance.errors import BackendError
from appliance.heap import trim_heap

# Batches whose sequences have ended and that still hold their rows: to go on with one of these
# costs no filling.
_MAX_RESIDENT = 2
# More holes than this in front of a new text, and filling its row anew is cheaper.
_MAX_HOLES_TAKEN_OVER = 128
# A position that only pads a shorter row costs a pass 1.7 us, a pass of its own some 14 ms.
_MAX_PADDING = 4096
# Filling so many positions takes about as long as the pass that joining spares.
_POSITIONS_WORTH_A_PASS = 2048
# Attention over the state is fast for one token a row and slow for several: 1.5 us for each of
# them and each position, of a decode step's 16 ms.
_POSITION_COST = 1e-4


class StatefulRunner:
    """Runs up to `max_slots` rows on as few infer requests as pays; `kv` knows their blocks."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        kv: BlockKVCache,
        host: HostBlocks,
        *,
        max_slots: int,
        max_model_len: int,
        vocab_size: int,
    ) -> None:
        self.limits = RunnerLimits(
            max_slots,
            max_model_len,
            vocab_size,
            mixes_phases=False,
            pads_rows=True,
            position_cost=_POSITION_COST,
        )
        self._compiled = compiled
        self._kv = kv
        self._host = host
        self._batches: list[Batch] = []
        self._num_passes = 0
        self._num_spare_passes = 0
        kv.count_also("state", lambda: self._state_bytes)

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        try:
            return self._forward(chunks)
        except RuntimeError as error:
            raise BackendError(f"the forward pass failed: {error}") from error

    def idle(self) -> None:
        """Give back what batches hold that nobody is likely to go on with."""
        idle = sorted(self._idle_batches(), key=lambda batch: batch.last_used, reverse=True)
        resident = [batch for batch in idle if batch.rows][:_MAX_RESIDENT]
        kept = [b for b in self._batches if b not in idle or b in resident]
        if len(kept) < len(self._batches):
            self._batches = kept
            trim_heap()

    def close(self) -> None:
        self._batches.clear()

    @property
    def _state_bytes(self) -> int:
        """What the state of all rows takes, holes included; OpenVINO's room to grow is not."""
        num_positions = sum(len(batch.rows) * batch.length for batch in self._batches)
        return num_positions * self._host.bytes_per_token

    def _forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        for source, target in self._kv.take_copies():
            self._host.copy(source, target)
        for chunk in chunks:
            self._seat(chunk)
        if len(chunks) > 1:
            self._join(chunks)
        parts = [self._place(chunk) for chunk in chunks]
        batches = list(dict.fromkeys(batch for batch, _ in parts))
        logits: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(chunks)
        for batch in batches:
            mine = [i for i, (where, _) in enumerate(parts) if where is batch]
            computed = self._run(batch, [(parts[i][1], chunks[i]) for i in mine])
            if len(batches) == 1:
                return computed
            # The next batch's pass may use the same memory.
            ends = np.cumsum([chunks[i].num_logits for i in mine])[:-1]
            for i, rows in zip(mine, np.split(computed.copy(), ends), strict=True):
                logits[i] = rows
        return np.concatenate(logits)

    def _run(self, batch: Batch, parts: Sequence[tuple[Row, Chunk]]) -> NDArray[np.float32]:
        tables = self._tables()
        width = max(len(chunk.token_ids) for _, chunk in parts)
        batch.let_go(tables, width)
        batch.squeeze(tables, width)
        self._num_passes += 1
        batch.last_used = self._num_passes
        return batch.forward(parts)

    def _seat(self, chunk: Chunk) -> None:
        """See to it that the chunk's sequence has a row that holds just what is before `start`."""
        seat = self._kv.seat(chunk.slot)
        assert seat is not None
        for batch in self._batches:
            for row in batch.rows:
                if row.seat == seat:
                    assert len(row.token_ids) >= chunk.start
                    batch.cut(row, chunk.start)
                    return
        if chunk.start == 0:
            self._free_batch().clear(seat)
            return
        known = self._kv.token_ids(chunk.slot, chunk.start)
        if not self._take_over(seat, known):
            table = self._kv.block_indices(chunk.slot)
            self._free_batch().fill([(Row(seat, known), table)])

    def _take_over(self, seat: int, known: Sequence[int]) -> bool:
        """Go on in a row that a sequence has left, if one begins with `known`."""
        for batch in self._idle_batches():
            for row in batch.rows:
                too_long = len(row.token_ids) - len(known)
                if 0 <= too_long <= _MAX_HOLES_TAKEN_OVER and (
                    shared_length(row.token_ids, known) == len(known)
                ):
                    batch.select([row])
                    batch.cut(row, len(known))
                    row.seat = seat
                    return True
        return False

    def _join(self, chunks: Sequence[Chunk]) -> None:
        """Bring rows of several batches together, where it pays."""
        batches = list(dict.fromkeys(self._place(chunk)[0] for chunk in chunks))
        if len(batches) < 2:
            return
        tables = self._tables()
        running = {b: [row for row in b.rows if row.seat in tables] for b in batches}
        joined = _that_fit_together({batch: len(rows) for batch, rows in running.items()})
        if len(joined) < 2:
            return
        rows = [row for batch in joined for row in running[batch]]
        positions = len(rows) * max(len(row.token_ids) for row in rows)
        self._num_spare_passes += len(joined) - 1
        if positions > self._num_spare_passes * _POSITIONS_WORTH_A_PASS:
            return
        self._num_spare_passes = 0
        for batch in joined[:-1]:
            batch.clear()
        joined[-1].fill([(row, tables[row.seat]) for row in rows])

    def _place(self, chunk: Chunk) -> tuple[Batch, Row]:
        seat = self._kv.seat(chunk.slot)
        for batch in self._batches:
            for row in batch.rows:
                if row.seat == seat:
                    return batch, row
        raise AssertionError(f"nobody sits in slot {chunk.slot}")

    def _tables(self) -> dict[int, list[int]]:
        """The block tables of all running sequences, by their seat."""
        return {seat: self._kv.block_indices(slot) for seat, slot in self._kv.seats()}

    def _idle_batches(self) -> list[Batch]:
        seats = {seat for seat, _ in self._kv.seats()}
        return [b for b in self._batches if not any(row.seat in seats for row in b.rows)]

    def _free_batch(self) -> Batch:
        """An empty batch, or the one that was left longest ago."""
        idle = sorted(self._idle_batches(), key=lambda batch: (bool(batch.rows), batch.last_used))
        if idle and (not idle[0].rows or len(idle) >= _MAX_RESIDENT):
            return idle[0]
        batch = Batch(self._compiled, self._kv, self._host)
        self._batches.append(batch)
        return batch


def _that_fit_together(num_rows_of: Mapping[Batch, int]) -> list[Batch]:
    """As many batches, the shortest first, as can share one length without much padding."""
    joined: list[Batch] = []
    for batch in sorted(num_rows_of, key=lambda batch: batch.length):
        together = [*joined, batch]
        num_rows = sum(num_rows_of[one] for one in together)
        now = sum(one.length * num_rows_of[one] for one in together)
        if batch.length * num_rows - now <= _MAX_PADDING:
            joined = together
    return joined
