"""Content checksums of local files, remembered between runs.

Hashing a gigabyte takes seconds and an unchanged build must be recognised at once, so the sha256
of a file is kept with its size, modification time and inode under `$XDG_CACHE_HOME/qwen-appliance`
and computed again only when one of them differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from appliance.model_dir import sha256_of


def content_revision(files: Iterable[Path]) -> str:
    """`sha256:...` over the files' names and contents, whatever their order and place.

    Raises `OSError` when one cannot be read.
    """
    memory = _Memory()
    checksums = [(path.name, memory.sha256(path)) for path in files]
    memory.save()
    return revision_of(checksums)


def revision_of(checksums: Iterable[tuple[str, str]]) -> str:
    """The same from pairs of name and sha256, for content that is not at hand."""
    lines = sorted(f"{digest}  {name}\n" for name, digest in checksums)
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The file's sha256 in lower-case hex. Raises `OSError` when it cannot be read."""
    memory = _Memory()
    digest = memory.sha256(path)
    memory.save()
    return digest


class _Memory:
    """The remembered checksums: `{path: [size, mtime_ns, inode, sha256]}` in one JSON file."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self._file = Path(base) / "qwen-appliance" / "checksums.json"
        self._entries: dict[str, list[int | str]] = {}
        self._changed = False
        # A missing or damaged memory costs a few seconds of hashing, no more.
        with contextlib.suppress(OSError, ValueError):
            entries = json.loads(self._file.read_text(encoding="utf-8"))
            self._entries = entries if isinstance(entries, dict) else {}

    def sha256(self, path: Path) -> str:
        real = path.resolve(strict=True)
        stat = real.stat()
        known_as = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        entry = self._entries.get(str(real))
        if isinstance(entry, list) and entry[:3] == known_as and len(entry) == 4:
            return str(entry[3])
        digest = sha256_of(real)
        self._entries[str(real)] = [*known_as, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        if not self._changed:
            return
        kept = {path: entry for path, entry in self._entries.items() if Path(path).exists()}
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        # A home that cannot be written to (a service user, a read-only box) is no reason to stop.
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            temporary.replace(self._file)
