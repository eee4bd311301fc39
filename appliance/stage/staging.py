"""From a model directory on disk to `TO/current`, which holds nothing that was not checked.

    TO/NAME-DIGEST/     the copy, of the manifest with that digest
    TO/current          a link to it, or to the model directory itself where there is no room

The link changes in one step and only ever points to a model whose every file had its sha256. The
copy keeps the files' times, and its name stays the same for the same model: OpenVINO recognises in
its compile cache what it compiled by path and time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ModelDirError
from appliance.model_dir import MANIFEST, FileEntry, Manifest, read_manifest, verify_files

CURRENT = "current"
_PARTIAL = ".partial"
_PIECE_BYTES = 1 << 20
SERVICE_BYTES = 512 << 20
"""What a service takes beside its packed weights, which are about as large as the model."""


@dataclass(frozen=True, slots=True)
class Staged:
    """`TO/current` is `directory`: a copy of `model_dir`, or `no_copy_because` says why it is none.

    `refused` says what was wrong with the models that came first.
    """

    model_dir: Path
    directory: Path
    num_bytes: int
    no_copy_because: str | None
    refused: tuple[ModelDirError, ...]


def stage(
    model_dir: Path, to: Path, *, copy: bool = True, memory_bytes: Callable[[], int]
) -> Staged:
    """Check `model_dir`, copy it below `to`, and let `to/current` point to what was checked.

    A model at fault is told in the result, and the one it replaced (`MODEL_DIR.previous`) is
    staged, if there is one. Without room in `to` or in memory (`memory_bytes()` are available)
    nothing is copied, and the link points to the model directory. Raises `ModelDirError` when no
    model is fit to be served; `to/current` is then as it was.
    """
    refused: list[ModelDirError] = []
    for candidate in (model_dir, model_dir.with_name(model_dir.name + ".previous")):
        if refused and not candidate.exists():
            break
        try:
            return _stage_one(candidate, to, copy, memory_bytes, tuple(refused))
        except ModelDirError as error:
            refused.append(error)
    raise refused[0]


def _stage_one(
    model_dir: Path,
    to: Path,
    copy: bool,
    memory_bytes: Callable[[], int],
    refused: tuple[ModelDirError, ...],
) -> Staged:
    manifest = read_manifest(model_dir)
    verify_files(model_dir, manifest, checksums=False)
    source = model_dir.resolve()
    num_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    try:
        to.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(to / _PARTIAL, ignore_errors=True)
        target = to / f"{source.name}-{_digest(source)}"
        because = None if copy else "told not to"
        if because is None and not _is_whole(target, manifest):
            because = _no_room(num_bytes, to, memory_bytes)
            if because is None:
                _copy(source, manifest, target)
        if because is not None:
            verify_files(source, manifest, checksums=True)
            target = source
        _point(to, target)
    except OSError as error:
        raise ModelDirError(to, f"cannot stage there: {error}") from error
    return Staged(model_dir, target, num_bytes, because, refused)


def _no_room(num_bytes: int, to: Path, memory_bytes: Callable[[], int]) -> str | None:
    """Why a copy of `num_bytes` would be one too many; None when there is room."""
    free = shutil.disk_usage(to).free
    if free < num_bytes + _PIECE_BYTES:
        return f"the model has {_mib(num_bytes)}, {to} has room for {_mib(free)}"
    needed = 2 * num_bytes + SERVICE_BYTES
    available = memory_bytes()
    if available < needed:
        return f"copy and service need {_mib(needed)} of memory, {_mib(available)} are available"
    return None


def _copy(source: Path, manifest: Manifest, target: Path) -> None:
    """Make `target` a copy of `source`, whole and checked, in one step. Raises `ModelDirError`."""
    partial = target.with_name(_PARTIAL)
    partial.mkdir(mode=0o755)
    for name, entry in manifest.files.items():
        _copy_file(source, name, entry, partial)
    shutil.copyfile(source / MANIFEST, partial / MANIFEST)
    for path in (*partial.iterdir(), partial):
        path.chmod(0o755 if path.is_dir() else 0o444)  # readable for the service, whoever built it
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def _copy_file(source: Path, name: str, entry: FileEntry, partial: Path) -> None:
    """Copy one file and hash what was read. Raises `ModelDirError` that names it."""
    if Path(name).name != name:
        raise ModelDirError(source, f"{MANIFEST} lists {name!r}, which is no file name")
    digest = hashlib.sha256()
    with (source / name).open("rb") as reader, (partial / name).open("wb") as writer:
        while piece := _read(reader.read, source, name):
            digest.update(piece)
            writer.write(piece)
        times = os.fstat(reader.fileno())
    if digest.hexdigest() != entry.sha256:
        raise ModelDirError(source, f"{name} has another sha256 than the manifest says")
    os.utime(partial / name, ns=(times.st_atime_ns, times.st_mtime_ns))


def _read(read: Callable[[int], bytes], source: Path, name: str) -> bytes:
    try:
        return read(_PIECE_BYTES)
    except OSError as error:
        raise ModelDirError(source, f"{name} cannot be read: {error.strerror}") from error


def _is_whole(target: Path, manifest: Manifest) -> bool:
    """Whether `target` is a copy made before that has not changed since."""
    try:
        verify_files(target, manifest, checksums=True)
    except ModelDirError:
        return False
    return (target / MANIFEST).is_file()


def _point(to: Path, target: Path) -> None:
    """Let `to/current` be a link to `target`, and remove the copy it pointed to before."""
    link, new = to / CURRENT, to / (CURRENT + ".new")
    try:
        before: Path | None = to / os.readlink(link)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        before = None
    new.unlink(missing_ok=True)
    new.symlink_to(target.name if target.parent == to else target)
    new.replace(link)
    if before is not None and before.parent == to and before != target:
        # A service that still reads it keeps its pages until it ends.
        shutil.rmtree(before, ignore_errors=True)


def _digest(source: Path) -> str:
    return hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()[:12]


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.0f} MiB"
