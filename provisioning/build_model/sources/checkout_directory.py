"""A checkout that already lies on disk: is it whole, and how to use it without copying it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from appliance.model_dir import MANIFEST
from provisioning.build_model.errors import SourceError, UnsupportedModelError
from provisioning.build_model.sources.layout import (
    CONFIG,
    WEIGHTS_INDEX,
    Layout,
    check_causal_lm,
    wanted_files,
)

_LFS_POINTER = b"version https://git-lfs"


def examine(directory: Path) -> Layout:
    """Which files of `directory` make the model.

    Reads configuration and the headers of the weights. Raises `UnsupportedModelError` for what is
    no causal language model, and `SourceError` when a file is missing, cut off or unreadable.
    """
    try:
        names = [path.name for path in directory.iterdir() if path.is_file()]
        if MANIFEST in names and CONFIG not in names:
            raise UnsupportedModelError(
                f"{directory} is a finished model directory already; serve it with --model"
            )
        layout = wanted_files(names, str(directory))
        check_causal_lm(_read_json(directory / CONFIG), str(directory))
        if WEIGHTS_INDEX in layout.names:
            _check_shards(directory, layout)
        for name in layout.names:
            if name.endswith(".safetensors"):
                _check_whole(directory / name)
    except OSError as error:
        raise SourceError(f"cannot read {error.filename}: {error.strerror}") from error
    return layout


def total_bytes(directory: Path, layout: Layout) -> int:
    """The size of the files of `layout` in `directory`, links followed."""
    return sum((directory / name).stat().st_size for name in layout.names)


def link_files(files: dict[str, Path], directory: Path) -> None:
    """Make `directory` hold a symbolic link for each name; the targets are never written to."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, target in files.items():
        link = directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from error


def _check_shards(directory: Path, layout: Layout) -> None:
    index = _read_json(directory / WEIGHTS_INDEX)
    shards = index.get("weight_map", {}).values() if isinstance(index, dict) else ()
    if missing := sorted(set(shards) - set(layout.names)):
        raise SourceError(f"{directory} lacks {missing[0]}, which its {WEIGHTS_INDEX} names")


def _check_whole(path: Path) -> None:
    """Compare a safetensors file's size with what its header announces."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise SourceError(
                f"{path} is only a git-lfs pointer; run `git lfs pull` in its directory"
            )
        file.seek(0)
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        header = file.read(length) if length < size else b""
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name[:2] != "__"]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise SourceError(f"{path} is no whole safetensors file ({size} bytes)") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise SourceError(f"{path} is truncated: {size} bytes, {expected} expected; fetch it again")
