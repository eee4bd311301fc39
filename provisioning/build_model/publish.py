"""Puts a finished model directory in its place, so that a reader never sees half of one.

On Linux the new and the old directory change places in one system call (renameat2 with
RENAME_EXCHANGE): whoever opens the path finds the old or the new model, whole. A file system that
cannot do that (some network and overlay ones) gets two renames, with a moment between them in which
the path does not exist; a run that is killed in that moment is completed by the next.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from appliance.model_dir import MANIFEST, read_manifest
from provisioning.build_model.durable import sync, sync_tree
from provisioning.build_model.errors import DiskError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def previous_of(out: Path) -> Path:
    """Where the model that `out` held before is kept."""
    return out.with_name(out.name + ".previous")


def publish(finished: Path, out: Path) -> None:
    """Move the directory `finished` to `out`; what was there becomes `OUT.previous`.

    Both are on one file system. Everything is on the disk (fsync) before it becomes visible.
    Raises `DiskError` when the file system refuses; `out` is then as it was.
    """
    replaced = _replaced(finished)
    try:
        sync_tree(finished)
        if not out.exists():
            finished.rename(out)
        elif exchange(finished, out):
            finished.rename(replaced)
        else:
            _rename_twice(finished, out, replaced)
        sync(out.parent)
        if replaced.exists():
            keep_previous(replaced, out)
    except OSError as error:
        raise DiskError(f"cannot publish {out}: {error.strerror} ({error.filename})") from error


def complete_publication(finished: Path, out: Path) -> bool:
    """Do what a run that was killed within `publish` had left to do, after `out` was replaced.

    Returns whether there was anything: the replaced model, still where the new one had been made.
    The older of two is the replaced one; a newer one is another build, waiting to be continued.
    """
    for left in (_replaced(finished), finished):
        if (left / MANIFEST).exists():
            if read_manifest(left).created > read_manifest(out).created:
                return False
            keep_previous(left, out)
            return True
    return False


def keep_previous(replaced: Path, out: Path) -> None:
    """Make `replaced` the previous model of `out`, instead of an older one. Raises `OSError`."""
    previous = previous_of(out)
    if previous.exists():
        stale = replaced.with_name("stale")
        previous.rename(stale)
        shutil.rmtree(stale)
    replaced.rename(previous)
    sync(out.parent)


def _replaced(finished: Path) -> Path:
    return finished.with_name("replaced")


def _rename_twice(finished: Path, out: Path, replaced: Path) -> None:
    out.rename(replaced)
    try:
        finished.rename(out)
    except OSError:
        replaced.rename(out)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places atomically; False when this system cannot. Raises `OSError`."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one))
