"""Reads a GGUF file's header: metadata and where each tensor lies. Standard library only.

Layout (version 2 and 3, little endian): magic, version, counts; `num_metadata` pairs of key and
typed value; `num_tensors` records of name, dimensions, type and offset; padding; tensor data. See
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.build_model.errors import SourceError, UnsupportedModelError
from provisioning.build_model.sources.gguf.tensor_types import TENSOR_TYPES, TensorType

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `shape` outermost dimension first, `offset` in bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.type.num_bytes(self.num_elements)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A file's header. `metadata` values are str, int, float, bool or lists of these."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read_gguf(path: Path) -> GGUFFile:
    """Read the header of `path` and check that every tensor lies inside the file.

    Raises `SourceError` when the file cannot be read, is no GGUF or is cut off, and
    `UnsupportedModelError` for versions, byte orders, split files and tensor types not known here.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise SourceError(f"{path} is not a GGUF file: it does not begin with 'GGUF'")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(path, data).read()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}; give gguf:PATH a file") from error


class _Header:
    """A cursor over the mapped file; `read` walks it once from start to end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, len(_MAGIC)

    def read(self) -> GGUFFile:
        version = self._scalar("I")
        if version not in _VERSIONS:
            big_endian = version & 0xFFFF == 0
            what = "is written in big-endian order" if big_endian else f"has GGUF version {version}"
            raise UnsupportedModelError(
                f"{self._path} {what}; little-endian versions 2 and 3 can be read: convert it "
                "again with a current llama.cpp"
            )
        num_tensors, num_metadata = self._scalar("Q"), self._scalar("Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_metadata):
            key = self._string()
            metadata[key] = self._value(self._scalar("I"))
        if metadata.get("split.count", 0) > 1:
            raise UnsupportedModelError(
                f"{self._path} is one of {metadata['split.count']} parts; join them with "
                "llama.cpp's llama-gguf-split --merge"
            )
        records = [self._tensor_record() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        tensors = tuple(
            Tensor(name, shape, kind, start + offset) for name, shape, kind, offset in records
        )
        self._check_size(tensors)
        return GGUFFile(self._path, metadata, tensors)

    def _tensor_record(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self._string()
        shape = tuple(self._scalar("Q") for _ in range(self._scalar("I")))[::-1]
        number, offset = self._scalar("I"), self._scalar("Q")
        if number not in TENSOR_TYPES:
            known = ", ".join(kind.name for kind in TENSOR_TYPES.values())
            raise UnsupportedModelError(
                f"{self._path}: tensor {name} has ggml type {number}, which nothing here reads; "
                f"take a file quantised as one of {known}"
            )
        kind = TENSOR_TYPES[number]
        if not shape or shape[-1] % kind.block_size:
            raise SourceError(
                f"{self._path}: tensor {name} of shape {shape} does not fit blocks of "
                f"{kind.block_size} ({kind.name}); the file is damaged"
            )
        return name, shape, kind, offset

    def _check_size(self, tensors: tuple[Tensor, ...]) -> None:
        needed = max((tensor.offset + tensor.num_bytes for tensor in tensors), default=self._at)
        if needed > len(self._data):
            raise self._truncated(needed)

    def _truncated(self, needed: int) -> SourceError:
        return SourceError(
            f"{self._path} is truncated: it has {len(self._data)} bytes, its header speaks of at "
            f"least {needed}; download it again"
        )

    def _skip(self, num_bytes: int) -> int:
        """Step over `num_bytes` and return where they begin."""
        begin, self._at = self._at, self._at + num_bytes
        if self._at > len(self._data):
            raise self._truncated(self._at)
        return begin

    def _scalar(self, code: str) -> Any:
        return self._numbers(code, 1)[0]

    def _numbers(self, code: str, count: int) -> tuple[Any, ...]:
        begin = self._skip(struct.calcsize("<" + code) * count)
        return struct.unpack_from(f"<{count}{code}", self._data, begin)

    def _string(self) -> str:
        length = self._scalar("Q")
        begin = self._skip(length)
        try:
            return self._data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self._path}: the string at byte {begin} of its header is not UTF-8; "
                "the file is damaged"
            ) from error

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item_kind, count = self._scalar("I"), self._scalar("Q")
            if item_kind in _SCALARS:
                return list(self._numbers(_SCALARS[item_kind], count))
            return [self._value(item_kind) for _ in range(count)]
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        raise SourceError(f"{self._path}: metadata of type {kind} is unknown; the file is damaged")
