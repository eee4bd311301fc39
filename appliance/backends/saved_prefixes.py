"""Carries known prefixes over a restart: the pool's blocks, to disk and back."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.block_pool import KnownBlock
from appliance.backends.kv_precision import kv_precision
from appliance.backends.model_hash import model_hash
from appliance.backends.prefix_files import ROOT_NAME, PrefixFiles, SavedBlock, block_name
from appliance.config import EngineConfig
from appliance.model_dir import Manifest

_log = logging.getLogger(__name__)


def restored_prefixes(
    config: EngineConfig, manifest: Manifest, kv: BlockKVCache, arrays: Sequence[NDArray[Any]]
) -> SavedBlocks | None:
    """What is to save the blocks of `kv`, after it restored what was saved; None: nothing is."""
    directory = config.saved_prefixes_dir or _state_dir()
    if directory is None or config.saved_prefixes_mb == 0:
        return None
    saved = SavedBlocks(
        kv,
        arrays,
        PrefixFiles(directory, _key(config, manifest, arrays)),
        max_bytes=config.saved_prefixes_mb * 1_000_000,
        interval_s=config.saved_prefixes_interval_s,
    )
    saved.restore()
    return saved


def _state_dir() -> Path | None:
    """What systemd made for the unit's `StateDirectory=`; several are separated by colons."""
    first, _, _ = os.environ.get("STATE_DIRECTORY", "").partition(":")
    return Path(first) if first else None


def _key(config: EngineConfig, manifest: Manifest, arrays: Sequence[NDArray[Any]]) -> str:
    """All that KV depends on: equal keys, equal meaning of every byte."""
    layout = ", ".join(f"{array.dtype} {array.shape[1:]}" for array in arrays)
    openvino = importlib.metadata.version("openvino")
    return (
        f"model {model_hash(manifest)}, OpenVINO {openvino}, {config.kv_cache} "
        f"{kv_precision(config)}: {layout}"
    )


class SavedBlocks:
    """Saves the most recently used blocks of `kv`, at most `max_bytes` of them, and restores them.

    `arrays` hold the blocks' content; every array's first axis is the block. All calls come from
    the engine thread, or before it starts; files are written by a thread of their own meanwhile.
    """

    def __init__(
        self,
        kv: BlockKVCache,
        arrays: Sequence[NDArray[Any]],
        files: PrefixFiles,
        *,
        max_bytes: int,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kv = kv
        self._arrays = arrays
        self._files = files
        self._block_bytes = sum(array[0].nbytes for array in arrays)
        self._max_blocks = max_bytes // self._block_bytes
        self._interval_s = interval_s
        self._clock = clock
        self._due_at = clock() + interval_s
        self._saved: list[str] = []
        self._writer: threading.Thread | None = None

    def restore(self) -> None:
        """Put what was saved into the pool; before anything else is in it."""
        saved = self._files.read(self._block_bytes)[: self._max_blocks]
        position = {block.name: i for i, block in enumerate(saved)}
        parents = [None if b.parent == ROOT_NAME else position[b.parent] for b in saved]
        places = self._kv.restore_blocks(
            [(parent, b.token_ids) for parent, b in zip(parents, saved, strict=True)]
        )
        # Those that found room: the first ones.
        for block, place in zip(saved, places, strict=False):
            self._unpack(block.data, place)
        self._saved = [block.name for block in saved]
        if places:
            num_tokens = sum(len(block.token_ids) for block in saved[: len(places)])
            _log.info("%d tokens' KV restored from %s", num_tokens, self._files.directory)

    def save_if_due(self) -> None:
        """Save when the interval has passed, something is new, and nothing is being written."""
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + self._interval_s
        if self._writer is None or not self._writer.is_alive():
            self._save()

    def close(self) -> None:
        """Save for the last time; returns when it is done."""
        self._wait()
        self._save()
        self._wait()

    def _save(self) -> None:
        names, new = self._collect(self._kv.known_blocks(self._max_blocks))
        if names == self._saved:
            return
        self._saved = names
        self._writer = threading.Thread(
            target=self._files.write, args=(names, new), name="prefix-writer", daemon=True
        )
        self._writer.start()

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.join()

    def _collect(self, known: Sequence[KnownBlock]) -> tuple[list[str], list[SavedBlock]]:
        """Names of all that is to be kept, parents first, and copies of what is not on disk yet."""
        names: dict[int, str] = {}
        new: dict[str, SavedBlock] = {}
        for block in known:
            parent = ROOT_NAME if block.parent_uid is None else names[block.parent_uid]
            name = names[block.uid] = block_name(parent, block.token_ids)
            if name not in self._files.names and name not in new:
                new[name] = SavedBlock(name, parent, block.token_ids, self._pack(block.index))
        # Two sequences may have computed the same text side by side.
        return list(dict.fromkeys(names.values())), list(new.values())

    def _pack(self, index: int) -> bytes:
        return b"".join(array[index].tobytes() for array in self._arrays)

    def _unpack(self, data: bytes, index: int) -> None:
        at = 0
        for array in self._arrays:
            one = array[index]
            one[...] = np.frombuffer(data, array.dtype, one.size, at).reshape(one.shape)
            at += one.nbytes
