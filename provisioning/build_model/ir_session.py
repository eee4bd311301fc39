"""Runs an edited IR for the build's own checks: exact, one row, no sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from provisioning.build_model.errors import ConversionError
from provisioning.build_model.ir_edit import LOGITS_INDICES

if TYPE_CHECKING:
    import numpy as np
    import openvino as ov
    from numpy.typing import NDArray

# The gate judges the weights, not the shortcuts a CPU may take with activations, so those are off.
# It also makes the figures the same on every machine, up to rounding.
EXACT: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
    "PERFORMANCE_HINT": "LATENCY",
}

# Relative to the largest logit: matrix products of other shapes add up in another order.
_ROUNDING = 1e-3


class IrSession:
    """A compiled edited IR with one row of KV cache. Not thread-safe."""

    def __init__(self, model: Path | ov.Model, properties: dict[str, str] = EXACT) -> None:
        """Compile `model` (an .xml or one in memory) for the CPU with OpenVINO's `properties`."""
        import openvino as ov

        loaded = str(model) if isinstance(model, Path) else model
        compiled = ov.Core().compile_model(loaded, "CPU", properties)
        self._infer_request = compiled.create_infer_request()
        self._num_tokens = 0

    def reset(self) -> None:
        """Forget all tokens."""
        self._infer_request.reset_state()
        self._num_tokens = 0

    def forward(self, token_ids: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float32]:
        """Append `token_ids`; logits (len(wanted), vocabulary) at these positions of them."""
        import numpy as np

        end = self._num_tokens + len(token_ids)
        inputs: dict[str, Any] = {
            "input_ids": np.asarray([token_ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._num_tokens, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
            LOGITS_INDICES: np.asarray(wanted, np.int64),
        }
        self._infer_request.infer(inputs)
        self._num_tokens = end
        logits: NDArray[np.float32] = self._infer_request.get_tensor("logits").data.copy()
        return logits


def edit_changes_nothing(model: ov.Model, edit: Callable[[ov.Model], None]) -> None:
    """Apply `edit` to `model`, in place, and prove that the numbers at chosen positions stay.

    The model runs before and after on the same two rows of tokens. Raises `ConversionError` when a
    logit moves by more than rounding.
    """
    import numpy as np

    chosen = [0, 3, 4, 9]
    before = _logits_of_two_rows(model, None)
    before = before.reshape(-1, before.shape[-1])[chosen]
    edit(model)
    after = _logits_of_two_rows(model, chosen)
    worst = float(np.abs(before - after).max())
    if not worst <= _ROUNDING * max(1.0, float(np.abs(before).max())):
        raise ConversionError(
            f"the edited IR answers otherwise: a logit moved by {worst:.3g} at the chosen positions"
        )


def _logits_of_two_rows(model: ov.Model, wanted: list[int] | None) -> NDArray[np.float32]:
    """Logits of two rows of five arbitrary tokens, at the flat positions `wanted` if given."""
    import numpy as np
    import openvino as ov

    request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()
    inputs: dict[str, Any] = {
        "input_ids": np.arange(10, dtype=np.int64).reshape(2, 5) % 7 + 1,
        "attention_mask": np.ones((2, 5), np.int64),
        "position_ids": np.tile(np.arange(5, dtype=np.int64), (2, 1)),
        "beam_idx": np.arange(2, dtype=np.int32),
    }
    if wanted is not None:
        inputs[LOGITS_INDICES] = np.asarray(wanted, np.int64)
    request.infer(inputs)
    logits: NDArray[np.float32] = request.get_tensor("logits").data.copy()
    return logits
