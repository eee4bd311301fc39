"""The GGUF tensor types this project can dequantise, with their block layout.

The table stands here, rather than being asked of the `gguf` package, so that a file is judged
(truncated? a type nothing reads?) with the standard library alone. The numbers are ggml's `enum
ggml_type`; a test compares the whole table with the package's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """How ggml packs numbers: blocks of `block_size` elements in `block_bytes` bytes."""

    number: int
    name: str
    block_size: int
    block_bytes: int

    def num_bytes(self, num_elements: int) -> int:
        """Bytes that `num_elements` occupy; a multiple of `block_size` by ggml's own rule."""
        return num_elements // self.block_size * self.block_bytes


_TYPES = (
    TensorType(0, "F32", 1, 4),
    TensorType(1, "F16", 1, 2),
    TensorType(2, "Q4_0", 32, 18),
    TensorType(3, "Q4_1", 32, 20),
    TensorType(6, "Q5_0", 32, 22),
    TensorType(7, "Q5_1", 32, 24),
    TensorType(8, "Q8_0", 32, 34),
    TensorType(10, "Q2_K", 256, 84),
    TensorType(11, "Q3_K", 256, 110),
    TensorType(12, "Q4_K", 256, 144),
    TensorType(13, "Q5_K", 256, 176),
    TensorType(14, "Q6_K", 256, 210),
    TensorType(20, "IQ4_NL", 32, 18),
    TensorType(23, "IQ4_XS", 256, 136),
    TensorType(30, "BF16", 1, 2),
)

TENSOR_TYPES = {kind.number: kind for kind in _TYPES}
