"""How much memory the control groups of this process allow: a container's limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# (mount point, file) of version 2 and of version 1.
_VERSION_2 = ("sys/fs/cgroup", "memory.max")
_VERSION_1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
_NO_LIMIT = 1 << 60  # version 1 has no word for it, only a huge number


def memory_limit(root: Path) -> int | None:
    """The lowest limit, in bytes, of this process's groups and those above them; None: no limit."""
    limits = [limit for path in _files(root) if (limit := _limit(path)) is not None]
    return min(limits, default=None)


def _files(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, file = _VERSION_1 if controllers else _VERSION_2
        inside = PurePosixPath(group.lstrip("/"))
        # In a container the groups above are not to be seen, and its own is the root.
        for directory in (inside, *inside.parents):
            yield root / mount / directory / file


def _limit(path: Path) -> int | None:
    try:
        limit = int(path.read_text())
    except (OSError, ValueError):  # "max" is no number
        return None
    return limit if limit < _NO_LIMIT else None
