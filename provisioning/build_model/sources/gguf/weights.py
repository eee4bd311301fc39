"""Dequantises a GGUF's tensors into one safetensors file, a few rows at a time.

float16 on disk: a quantised weight is a float16 scale times a small integer, and float16 keeps
eleven bits of the product (bfloat16 eight) at half of float32's size; the rounding error is a
hundredth of an INT8 step. A tensor that does not fit float16's range is refused, not clipped.

transformers' own loader dequantises every tensor to float32 and holds all of them beside the model
it fills. Rows are independent in every ggml format, so here one slice of `_SLICE_ELEMENTS` is in
memory at a time.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from provisioning.build_model.errors import UnsupportedModelError
from provisioning.build_model.sources.base import Stage
from provisioning.build_model.sources.gguf.architectures import architecture, tensor_names
from provisioning.build_model.sources.gguf.container import GGUFFile, Tensor

_SLICE_ELEMENTS = 1 << 22
_BYTES_PER_ELEMENT = 2


def weights_num_bytes(file: GGUFFile) -> int:
    """Bytes of tensor data that `write_weights` writes."""
    return sum(tensor.num_elements for tensor in file.tensors) * _BYTES_PER_ELEMENT


def write_weights(file: GGUFFile, target: Path, revision: str, stage: Stage) -> None:
    """Write `target` (model.safetensors) in float16, under Hugging Face's names.

    `revision` goes into the file's own metadata, and a target that already holds it whole is kept.
    A partial file never has the target's name.
    """
    stage.total(weights_num_bytes(file))
    header = _header(file, revision)
    if _is_complete(target, header, weights_num_bytes(file)):
        stage.advance(weights_num_bytes(file))
        return
    part = target.with_name(target.name + ".part")
    with part.open("wb") as output:
        output.write(header)
        for tensor in file.tensors:
            _write_tensor(file, tensor, output, stage)
    part.replace(target)


def _header(file: GGUFFile, revision: str) -> bytes:
    """safetensors' header: its length (8 bytes), then JSON padded to a multiple of 8."""
    names = tensor_names(file)
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "source": revision}}
    offset = 0
    for tensor in file.tensors:
        end = offset + tensor.num_elements * _BYTES_PER_ELEMENT
        entries[names[tensor.name]] = {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _is_complete(target: Path, header: bytes, num_bytes: int) -> bool:
    if not target.exists() or target.stat().st_size != len(header) + num_bytes:
        return False
    with target.open("rb") as file:
        return file.read(len(header)) == header


def _write_tensor(file: GGUFFile, tensor: Tensor, output: BinaryIO, stage: Stage) -> None:
    import numpy as np

    for values in _slices(file, tensor):
        with np.errstate(over="ignore"):  # an overflow is reported just below
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise UnsupportedModelError(
                f"{file.path}: {tensor.name} holds {np.abs(values).max():g}, beyond float16's range"
            )
        output.write(half.data)
        stage.advance(half.nbytes)


def _slices(file: GGUFFile, tensor: Tensor) -> Iterator[Any]:
    """The tensor's rows in Hugging Face's order, as float32 arrays of some rows each."""
    # Absolute import: the package `gguf`, not this folder.
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    num_rows = math.prod(tensor.shape[:-1])
    packed = np.memmap(
        file.path,
        dtype=np.uint8,
        mode="r",
        offset=tensor.offset,
        shape=(num_rows, tensor.num_bytes // num_rows),
    )
    order = _row_order(file, tensor)
    kind = GGMLQuantizationType(tensor.type.number)
    step = max(1, _SLICE_ELEMENTS // tensor.shape[-1])
    for begin in range(0, num_rows, step):
        rows = (
            packed[begin : begin + step] if order is None else packed[order[begin : begin + step]]
        )
        yield np.ascontiguousarray(dequantize(np.ascontiguousarray(rows), kind))


def _row_order(file: GGUFFile, tensor: Tensor) -> Any:
    """For each row of Hugging Face's tensor the file's row, or None if they are the same.

    llama.cpp rotates neighbouring pairs (2i, 2i+1) of a head's rows, Hugging Face the pairs
    (i, i + head_dim/2); the converter to GGUF reorders llama's query and key for that.
    """
    import numpy as np

    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}
    kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
    if kind not in heads or not architecture(file).interleaved_rope:
        return None
    num_heads = file.metadata[f"{file.metadata['general.architecture']}.attention.{heads[kind]}"]
    rows = np.arange(tensor.shape[0])
    return rows.reshape(num_heads, -1, 2).swapaxes(1, 2).ravel()
