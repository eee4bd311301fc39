"""The paged variant's forward pass: any mix of chunks in one call, KV in tensors of our own.

Per layer there is a key and a value cache tensor `(num_blocks, num_kv_heads, BLOCK_SIZE or more,
head_dim or more)`, in the KV-cache precision with its scales. A pass takes all chunks' tokens in
one row; `past_lens`, `subsequence_begins` and the block table say which belongs to whom
(openvino.genai's `model_runner.hpp` names the inputs).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from appliance.backends.base import Chunk, RunnerLimits
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.paged.model import cache_shapes
from appliance.errors import BackendError


class PagedRunner:
    """Computes chunks of up to `max_slots` sequences; asks `kv` where their blocks lie."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        kv: BlockKVCache,
        *,
        max_slots: int,
        max_model_len: int,
        vocab_size: int,
    ) -> None:
        self.limits = RunnerLimits(max_slots, max_model_len, vocab_size, mixes_phases=True)
        self._kv = kv
        self._request = compiled.create_infer_request()
        # Zero pages until they are written: a cache that is never full costs no memory.
        self._caches: list[ov.Tensor] = []
        for name, (kind, block) in cache_shapes(compiled).items():
            tensor = ov.Tensor(kind, ov.Shape([kv.num_blocks, *block]))
            self._request.set_tensor(name, tensor)
            self._caches.append(tensor)

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """The blocks; every array's first axis is the block."""
        return tuple(tensor.data for tensor in self._caches)

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        self._copy_blocks()
        try:
            # Shared: the logits are read in place, not copied for a result that nobody looks at.
            self._request.infer(self._inputs(chunks), share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise BackendError(f"the forward pass failed: {error}") from error
        logits: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits

    def idle(self) -> None:
        """Nothing to do: blocks need no housekeeping."""

    def close(self) -> None:
        self._caches.clear()

    def _inputs(self, chunks: Sequence[Chunk]) -> dict[str, NDArray[np.generic]]:
        tables = [self._kv.block_indices(chunk.slot) for chunk in chunks]
        ends = [chunk.start + len(chunk.token_ids) for chunk in chunks]
        begins = _offsets([len(chunk.token_ids) for chunk in chunks])
        positions = [np.arange(c.start, end) for c, end in zip(chunks, ends, strict=True)]
        wanted = [
            np.arange(end - chunk.num_logits, end)
            for chunk, end in zip(chunks, begins[1:], strict=True)
        ]
        return {
            "input_ids": np.concatenate([c.token_ids for c in chunks], dtype=np.int64),
            "position_ids": np.concatenate(positions, dtype=np.int64),
            "past_lens": np.array([chunk.start for chunk in chunks], dtype=np.int32),
            "subsequence_begins": begins,
            "block_indices": np.concatenate(tables, dtype=np.int32),
            "block_indices_begins": _offsets([len(table) for table in tables]),
            "max_context_len": np.array(max(ends), dtype=np.int32),
            "logits_indices": np.concatenate(wanted, dtype=np.int64),
        }

    def _copy_blocks(self) -> None:
        for source, target in self._kv.take_copies():
            for tensor in self._caches:
                tensor.data[target] = tensor.data[source]


def _offsets(lengths: Sequence[int]) -> NDArray[np.int32]:
    """Where each part begins in their concatenation, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(lengths)), dtype=np.int32)
