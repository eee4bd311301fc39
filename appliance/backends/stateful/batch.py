"""One infer request and the rows of its state: sequences that share each forward pass.

State of `rows` rows, `length` positions long, per layer for keys and for values: float32 `(rows,
num_heads, length, head_dim)` when set through `VariableState.state`, in the KV-cache precision
inside. The public API can append to it (infer), select rows (`beam_idx`), replace and reset it, but
not cut it. Cutting is therefore done by holes: positions that do not count any more stay in the
state with `attention_mask` 0, and `position_ids` go on without them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from appliance.backends.base import Chunk
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.block_pool import BLOCK_SIZE
from appliance.backends.stateful.host_blocks import HostBlocks
from appliance.backends.stateful.mask import Mask

# In positions passed over: a hole costs a row 1.7 us in a pass, filling a position anew 12 us, and
# each filling 3 ms. Holes may cost as much as getting rid of them would, then they go.
_HOLES_PER_FILLED_POSITION = 7
_HOLES_PER_FILLING = 2000
# A row that leaves through `beam_idx` has OpenVINO copy all that stay, 9 us a position; one that
# only comes along costs a pass its own positions, and as much as so many more.
_HOLES_PER_POSITION_THAT_STAYS = 5
_HOLES_PER_ROW = 350


@dataclass(slots=True, eq=False)
class Row:
    """The text in one row of the state. `seat` is whose it is, or was."""

    seat: int
    token_ids: list[int] = field(default_factory=list)


class Batch:
    """Owns one infer request. `rows` are in the state's order."""

    def __init__(self, compiled: ov.CompiledModel, kv: BlockKVCache, host: HostBlocks) -> None:
        self.rows: list[Row] = []
        self.last_used = 0
        self._kv = kv
        self._host = host
        self._request = compiled.create_infer_request()
        # In the order in which the output `new_kv` holds them.
        self._variables = sorted(self._request.query_state(), key=lambda state: state.name)
        self._last_set: NDArray[np.float32] | None = None
        self._mask = Mask()
        self._beam_idx = np.zeros(1, dtype=np.int32)
        self._holes_passed = 0
        self._ended_passed = 0

    @property
    def length(self) -> int:
        """Positions of each row, holes included."""
        return self._mask.length

    @property
    def num_holes(self) -> int:
        """Positions in all rows together that filling the state anew would spare."""
        longest = max((len(row.token_ids) for row in self.rows), default=0)
        return (self._mask.length - longest) * len(self.rows)

    def clear(self, seat: int | None = None) -> None:
        """Empty the state; with `seat`, for one row that begins now."""
        self._request.reset_state()
        self.rows = [] if seat is None else [Row(seat)]
        self._restart([0] * len(self.rows))

    def release(self) -> None:
        """Empty the state and give its memory back, which resetting alone does not."""
        self._fill([])

    def select(self, rows: Sequence[Row]) -> None:
        """Leave all other rows; carried out by the next pass."""
        if len(rows) != len(self.rows):
            indices = [self.rows.index(row) for row in rows]
            self._mask.select(indices)
            self._beam_idx = self._beam_idx[indices]
            self.rows = list(rows)
            self._ended_passed = 0

    def let_go(self, running: Container[int], num_new_tokens: int) -> None:
        """Leave the rows whose seats are not among the `running` ones, once taking them along has
        cost as much as leaving; until then they take part as padding.

        `num_new_tokens` are going to be computed in each row.
        """
        staying = [row for row in self.rows if row.seat in running]
        num_ended = len(self.rows) - len(staying)
        self._ended_passed += num_ended * (self.length + _HOLES_PER_ROW) * num_new_tokens
        if self._ended_passed > _HOLES_PER_POSITION_THAT_STAYS * self.length * len(staying):
            self.select(staying)

    def cut(self, row: Row, num_tokens: int) -> None:
        """Forget everything behind the row's first `num_tokens` tokens."""
        if num_tokens < len(row.token_ids):
            self._mask.cut(self.rows.index(row), num_tokens)
            del row.token_ids[num_tokens:]

    def fill(self, rows: Sequence[tuple[Row, Sequence[int]]]) -> None:
        """Replace the state by these rows, each with its block table, from host memory."""
        self._fill([(table, len(row.token_ids)) for row, table in rows])
        self.rows = [row for row, _ in rows]
        self._restart([len(row.token_ids) for row in self.rows])

    def squeeze(self, tables: Mapping[int, Sequence[int]], num_new_tokens: int = 0) -> None:
        """Fill the state anew, without its holes, once they have cost as much as that does.

        `tables`: the block tables of all running sequences by their seat; other rows leave when it
        is filled. `num_new_tokens` are going to be computed behind them.
        """
        longest = max(len(row.token_ids) for row in self.rows)
        limit = _HOLES_PER_FILLED_POSITION * longest * len(self.rows) + _HOLES_PER_FILLING
        if self._holes_passed + self.num_holes * num_new_tokens > limit:
            self.fill([(row, tables[row.seat]) for row in self.rows if row.seat in tables])

    def forward(self, parts: Sequence[tuple[Row, Chunk]]) -> NDArray[np.float32]:
        """Compute one chunk for each of some rows, put its KV into the host's blocks.

        The other rows take part with padding. Returns logits, float32 `(sum of num_logits,
        vocab_size)`, in the order of `parts`; valid until the next call.
        """
        chunks = {id(row): chunk for row, chunk in parts}
        lengths = [len(chunks[id(r)].token_ids) if id(r) in chunks else 0 for r in self.rows]
        width = max(lengths)
        input_ids = np.zeros((len(self.rows), width), dtype=np.int64)
        position_ids = np.zeros_like(input_ids)
        for index, row in enumerate(self.rows):
            if chunk := chunks.get(id(row)):
                input_ids[index, : len(chunk.token_ids)] = chunk.token_ids
            start = len(row.token_ids)
            position_ids[index] = np.arange(start, start + width)
        self._request.infer(
            {
                "input_ids": input_ids,
                "attention_mask": self._mask.extended(lengths),
                "position_ids": position_ids,
                "beam_idx": self._beam_idx,
                "logits_indices": self._wanted(parts, width),
            },
            share_inputs=True,
            share_outputs=True,  # read in place below, not copied for a result nobody looks at
        )
        self._holes_passed += self.num_holes * width
        self._mask.append(width)
        self._beam_idx = np.arange(len(self.rows), dtype=np.int32)
        self._keep(parts, width)
        logits: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits

    def _wanted(self, parts: Sequence[tuple[Row, Chunk]], width: int) -> NDArray[np.int64]:
        wanted = []
        for row, chunk in parts:
            end = self.rows.index(row) * width + len(chunk.token_ids)
            wanted.append(np.arange(end - chunk.num_logits, end, dtype=np.int64))
        return np.concatenate(wanted)

    def _keep(self, parts: Sequence[tuple[Row, Chunk]], width: int) -> None:
        """Put what was computed into the host's blocks, and into the rows' texts."""
        shape = self._host.shape
        new_kv = self._request.get_output_tensor(1).data.reshape(
            shape.num_variables, len(self.rows), shape.num_heads, width, shape.head_dim
        )
        # Of every token: its row and column in the pass, its block and its place in there.
        rows, columns, blocks, offsets = [], [], [], []
        for row, chunk in parts:
            index, table = self.rows.index(row), self._kv.block_indices(chunk.slot)
            for column in range(len(chunk.token_ids)):
                block, offset = divmod(chunk.start + column, BLOCK_SIZE)
                rows.append(index)
                columns.append(column)
                blocks.append(table[block])
                offsets.append(offset)
            row.token_ids.extend(chunk.token_ids)
        # All rows at once: between passes, whose weights have emptied the caches, every call costs
        # more than its work.
        kv = new_kv[:, rows, :, columns]
        self._host.write(np.array(blocks, dtype=np.intp), np.array(offsets, dtype=np.intp), kv)

    def _fill(self, rows: Sequence[tuple[Sequence[int], int]]) -> None:
        shape = self._host.shape
        longest = max((num_tokens for _, num_tokens in rows), default=0)
        # OpenVINO copies what is set at once, so one array serves all variables; but it keeps the
        # pointer, so the array lives until the next one is set. Padding must be finite: its share
        # of attention is 0, not nothing.
        state = np.zeros((max(len(rows), 1), shape.num_heads, longest, shape.head_dim), np.float32)
        for variable, target in enumerate(self._variables):
            for index, (table, num_tokens) in enumerate(rows):
                self._host.read(variable, table, num_tokens, state[index])
            target.state = ov.Tensor(state, shared_memory=True)
        self._last_set = state

    def _restart(self, row_lengths: Sequence[int]) -> None:
        self._mask.reset(row_lengths)
        self._beam_idx = np.arange(max(len(row_lengths), 1), dtype=np.int32)
        self._holes_passed = 0
        self._ended_passed = 0
