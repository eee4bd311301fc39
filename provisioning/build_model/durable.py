"""Files that survive a power cut: flushed to the disk before anything refers to them."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flush one file, or the entries of one directory. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flush everything below `directory`, not following symbolic links. Raises `OSError`."""
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(root))
