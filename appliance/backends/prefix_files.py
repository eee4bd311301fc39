"""Blocks of KV on disk: one file a block, named by all the tokens up to its end, and an index.

    index.json      {"format", "key", "names"}: what belongs together, most recently used first
    NAME.block      a line of JSON (parent, token ids, checksum of the rest), then the bytes

Files are written aside and renamed, and never changed: what is on disk is not written again.
Nothing is waited for (no fsync), since every block has its checksum: what a power cut leaves
unfinished is ignored by the next start, like any file that is corrupt or made by something else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_FORMAT = 1
_INDEX = "index.json"
_SUFFIX = ".block"
ROOT_NAME = ""
"""The parent of a text's first block."""


@dataclass(frozen=True, slots=True)
class SavedBlock:
    """One block. `parent` is the name of the block before it; `data` its bytes."""

    name: str
    parent: str
    token_ids: tuple[int, ...]
    data: bytes


def block_name(parent: str, token_ids: Sequence[int]) -> str:
    """The name of the block that holds `token_ids` behind `parent`: equal texts, equal names."""
    text = f"{parent} {' '.join(map(str, token_ids))}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class PrefixFiles:
    """A directory of blocks that are worth something under `key` only.

    `names` are those that lie there whole. Nothing here raises for what is on the disk, or for a
    disk that is full or not writable: one line in the log says what was given up.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        self.names: set[str] = set()
        self._key = key

    def read(self, block_bytes: int) -> list[SavedBlock]:
        """All blocks of the index that are whole, parents before children.

        `block_bytes` is the size each must have.
        """
        blocks: list[SavedBlock] = []
        num_ignored = 0
        for name in self._read_index():
            block = self._read_block(name, block_bytes)
            if block is None or block.parent not in {ROOT_NAME, *self.names}:
                num_ignored += 1
                continue
            self.names.add(name)
            blocks.append(block)
        if num_ignored:
            _log.warning(
                "%d of the saved prefixes in %s are corrupt or incomplete: ignored",
                num_ignored,
                self.directory,
            )
        return blocks

    def write(self, names: Sequence[str], new: Iterable[SavedBlock]) -> None:
        """Make the directory hold just the blocks `names`, of which `new` are not there yet."""
        try:
            # What was said to a model lies here: nobody else's business.
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for block in new:
                self._write_block(block)
                self.names.add(block.name)
            index = {"format": _FORMAT, "key": self._key, "names": list(names)}
            self._replace(_INDEX, json.dumps(index).encode())
            self._remove_all_but(set(names))
        except OSError as error:
            _log.warning("prefixes cannot be saved in %s: %s", self.directory, error)

    def _read_index(self) -> list[str]:
        path = self.directory / _INDEX
        try:
            index = json.loads(path.read_bytes())
            if (index["format"], index["key"]) != (_FORMAT, self._key):
                _log.warning(
                    "the saved prefixes in %s were made with another model, OpenVINO or precision: "
                    "ignored",
                    self.directory,
                )
                return []
            return [str(name) for name in index["names"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s cannot be read, saved prefixes are ignored: %s", path, error)
            return []

    def _read_block(self, name: str, block_bytes: int) -> SavedBlock | None:
        """None unless the file is whole and holds what its name says."""
        try:
            head, _, data = (self.directory / (name + _SUFFIX)).read_bytes().partition(b"\n")
            fields: dict[str, Any] = json.loads(head)
            parent, token_ids = str(fields["parent"]), tuple(map(int, fields["token_ids"]))
            checksum = fields["checksum"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = len(data) == block_bytes and checksum == _checksum(data)
        if not whole or name != block_name(parent, token_ids):
            return None
        return SavedBlock(name, parent, token_ids, data)

    def _write_block(self, block: SavedBlock) -> None:
        head = {
            "parent": block.parent,
            "token_ids": block.token_ids,
            "checksum": _checksum(block.data),
        }
        self._replace(block.name + _SUFFIX, json.dumps(head).encode() + b"\n" + block.data)

    def _replace(self, name: str, content: bytes) -> None:
        aside = self.directory / f"{name}.{os.getpid()}.tmp"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            aside.replace(self.directory / name)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def _remove_all_but(self, names: set[str]) -> None:
        """Remove the other blocks, and what broken-off writing has left."""
        self.names &= names
        for path in self.directory.iterdir():
            is_block = path.suffix == _SUFFIX and path.stem not in names
            if is_block or path.suffix == ".tmp":
                path.unlink(missing_ok=True)


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
