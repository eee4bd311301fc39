"""The stateful variant's forward pass: KV lives in the infer request's ReadValue/Assign variables.

State of one row, `L` tokens long, per layer and K/V: float32 `(1, num_kv_heads, L, head_dim)`
when read through `VariableState.state`, in the KV-cache precision inside. The public API can
append (infer), read, replace and reset it, but not cut it. Cutting is therefore done by holes:
positions that must not count any more stay in the state with `attention_mask` 0, which attention
ignores exactly, and `position_ids` count on without them. Holes cost memory and a little
bandwidth, so they are squeezed out, by reading and replacing the state, when there are many of
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from appliance.backends.base import Chunk, RunnerLimits
from appliance.errors import BackendError

# 1,024 holes of a 0.5B model are 12 MB in an 8-bit KV cache, 2 % of what a decode step reads;
# squeezing costs 4 ms and 0.04 ms a hole. A long chunk looks at every hole from every position,
# which costs more than that. When nobody waits, it is worth doing earlier, too.
_MAX_HOLES = 1024
_MAX_HOLES_WHEN_IDLE = 256
_MAX_HOLES_BEFORE_LONG_CHUNK = 128
_LONG_CHUNK = 96


class StatefulRunner:
    """Runs one row on one infer request."""

    def __init__(self, compiled: ov.CompiledModel, *, max_model_len: int, vocab_size: int) -> None:
        self.limits = RunnerLimits(
            max_slots=1, max_model_len=max_model_len, vocab_size=vocab_size, mixes_phases=False
        )
        self._request = compiled.create_infer_request()
        self._beam_idx = np.zeros(1, dtype=np.int32)
        self._mask = _Mask()

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        (chunk,) = chunks
        num_tokens = len(chunk.token_ids)
        try:
            self._cut(chunk.start, num_tokens)
            attention_mask = self._mask.extended(num_tokens)
            self._request.infer(
                {
                    "input_ids": np.array([chunk.token_ids], dtype=np.int64),
                    "attention_mask": attention_mask,
                    "position_ids": np.arange(
                        chunk.start, chunk.start + num_tokens, dtype=np.int64
                    )[None, :],
                    "beam_idx": self._beam_idx,
                    "logits_indices": np.arange(
                        num_tokens - chunk.num_logits, num_tokens, dtype=np.int64
                    ),
                },
                share_inputs=True,
            )
        except RuntimeError as error:
            raise BackendError(f"the forward pass failed: {error}") from error
        self._mask.append(num_tokens)
        logits: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits

    def idle(self) -> None:
        if self._mask.num_holes > _MAX_HOLES_WHEN_IDLE:
            self._squeeze()

    def close(self) -> None:
        self._request.reset_state()
        self._mask.clear()

    def _cut(self, num_tokens: int, num_new_tokens: int) -> None:
        """Keep the first `num_tokens` tokens of the row; `num_new_tokens` come behind them."""
        if num_tokens == 0:
            self._request.reset_state()
            self._mask.clear()
            return
        self._mask.cut(num_tokens)
        long = num_new_tokens >= _LONG_CHUNK
        if self._mask.num_holes > (_MAX_HOLES_BEFORE_LONG_CHUNK if long else _MAX_HOLES):
            self._squeeze()

    def _squeeze(self) -> None:
        """Replace the state by its tokens that count, holes left out."""
        kept = self._mask.kept_positions()
        for variable in self._request.query_state():
            variable.state = ov.Tensor(np.ascontiguousarray(variable.state.data[:, :, kept, :]))
        self._mask.reset(len(kept))


class _Mask:
    """Which positions of the state count, as the model wants it: int64, 1 a token, 0 a hole."""

    def __init__(self) -> None:
        self._values = np.zeros(1024, dtype=np.int64)
        self._length = 0
        self._num_tokens = 0

    @property
    def num_holes(self) -> int:
        return self._length - self._num_tokens

    def extended(self, num_tokens: int) -> NDArray[np.int64]:
        """The mask `(1, L + num_tokens)` for a pass that computes `num_tokens` more; a view."""
        length = self._length + num_tokens
        if length > len(self._values):
            grown = np.zeros(max(length, 2 * len(self._values)), dtype=np.int64)
            grown[: self._length] = self._values[: self._length]
            self._values = grown
        self._values[self._length : length] = 1
        return self._values[None, :length]

    def append(self, num_tokens: int) -> None:
        """`num_tokens` of the extension are in the state now."""
        self._length += num_tokens
        self._num_tokens += num_tokens

    def cut(self, num_tokens: int) -> None:
        """Turn everything behind the first `num_tokens` tokens into holes."""
        if num_tokens < self._num_tokens:
            self._values[self.kept_positions()[num_tokens:]] = 0
            self._num_tokens = num_tokens

    def kept_positions(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._values[: self._length])

    def reset(self, num_tokens: int) -> None:
        """The state holds `num_tokens` tokens and no hole."""
        self._values[:num_tokens] = 1
        self._length = self._num_tokens = num_tokens

    def clear(self) -> None:
        self.reset(0)
