"""The work directory of one output: a lock, and stages that need not be run twice.

    .NAME.building/          beside the output, so that publishing is a rename
        lock                 held (flock) by the one build that runs
        STAGE/               what a stage made
        STAGE.json           written when it was complete: the key of its inputs, and its result
        STAGE.log            what the libraries said

A stage whose `STAGE.json` holds the same key is not run again. The files are flushed to the disk
before the stamp is written, so a power cut cannot leave a stamp without its files.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from provisioning.build_model.durable import sync_tree
from provisioning.build_model.errors import BuildError, DiskError

_LOCK = "lock"


def key_of(*parts: object) -> str:
    """A sha256 over `parts`, JSON-serialisable; the same parts give the same key."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Workspace:
    """The work directory at `path`; made by `open_workspace`, which holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Once removed, the path may already be the next build's.
        self.is_removed = False

    def log(self, name: str) -> Path:
        """Where stage `name` writes what its libraries say."""
        return self.path / f"{name}.log"

    def directory(self, name: str) -> Path:
        """Where stage `name` puts its files."""
        return self.path / name

    def run(self, name: str, key: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """The result of stage `name`: the stamped one if its key fits, else that of `make`.

        `make` gets the stage's directory. It is emptied first, unless an interrupted run of the
        same key began it: what is there may then be continued.
        """
        stamp = self._stamp(name)
        if stamp.get("key") == key and stamp["complete"]:
            result: dict[str, Any] = stamp["result"]
            return result
        directory = self.directory(name)
        if stamp.get("key") != key:
            shutil.rmtree(directory, ignore_errors=True)
            self._write_stamp(name, {"key": key, "complete": False})
        directory.mkdir(exist_ok=True)
        result = make(directory)
        sync_tree(directory)
        self._write_stamp(name, {"key": key, "complete": True, "result": result})
        return result

    def is_complete(self, name: str, key: str) -> bool:
        """Whether stage `name` was completed with this key."""
        stamp = self._stamp(name)
        return stamp.get("key") == key and stamp.get("complete") is True

    def discard(self, name: str) -> None:
        """Give back the room of stage `name`; it would have to be run again."""
        self._stamp_path(name).unlink(missing_ok=True)
        shutil.rmtree(self.directory(name), ignore_errors=True)

    def is_empty(self) -> bool:
        """Whether nothing was made here, so that nothing is lost with it."""
        return [entry.name for entry in self.path.iterdir()] == [_LOCK]

    def remove(self) -> None:
        """Remove everything, the lock last, and end the use of this object."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()
        self.is_removed = True
        (self.path / _LOCK).unlink()
        try:
            self.path.rmdir()
        except OSError as error:
            # The next build has moved in since the lock was given up.
            if error.errno != errno.ENOTEMPTY:
                raise

    def _stamp_path(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def _stamp(self, name: str) -> dict[str, Any]:
        try:
            stamp = json.loads(self._stamp_path(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def _write_stamp(self, name: str, stamp: dict[str, Any]) -> None:
        path = self._stamp_path(name)
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(stamp, file)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)


def workspace_of(out: Path) -> Path:
    """The work directory that belongs to the output `out`."""
    return out.with_name(f".{out.name}.building")


@contextmanager
def open_workspace(out: Path) -> Iterator[Workspace]:
    """The work directory of `out`, locked for this process.

    Raises `BuildError` when another build into `out` runs, `DiskError` when it cannot be made.
    """
    path = workspace_of(out)
    with _locked(path, out):
        workspace = Workspace(path)
        try:
            yield workspace
        finally:
            if not workspace.is_removed and workspace.is_empty():
                workspace.remove()


@contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    while True:
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise BuildError(
                f"another build into {out} is running (process {owner}); wait for it"
            ) from None
        # The build that held it may have removed the file between our open and our lock.
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()
    with lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _open_lock(path: Path) -> IO[str]:
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(f"cannot make the work directory {path}: {error.strerror}") from error
        try:
            return (path / _LOCK).open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # removed by the build that just ended, between our two calls
        except OSError as error:
            raise DiskError(f"cannot write into {path}: {error.strerror}") from error
