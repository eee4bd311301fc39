"""Reads a bundle: nothing is used of one that is not wholly as its first file says.

Standard library only, and nothing that a machine without internet would have to install.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from provisioning.bundle.contents import CONTENTS, MAX_CONTENTS_BYTES, Contents, read_contents
from provisioning.bundle.errors import BundleError, NotABundleError

# Beside what is unpacked: Ansible's virtual environment.
MARGIN_BYTES = 160 << 20
_BLOCK = 1 << 20


def verify(file: Path) -> Contents:
    """Read the whole bundle and check every file. Raises `NotABundleError`."""
    with _opened(file) as (archive, contents):
        for _ in _members(file, archive, contents):
            pass
    return contents


def unpack(
    file: Path, directory: Path, check: Callable[[Contents], None] = lambda contents: None
) -> Contents:
    """Unpack into `directory`, which appears by one rename when every checksum was right.

    An earlier bundle there is replaced. `check` may refuse the contents before that. Raises
    `NotABundleError`, and `BundleError` when there is something else, or too little room.
    """
    if directory.exists() and not (directory / CONTENTS).is_file() and any(directory.iterdir()):
        raise BundleError(f"{directory} holds something else than an unpacked bundle")
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.with_name(f"{directory.name}.new-{os.getpid()}")
    with _opened(file) as (archive, contents):
        check(contents)
        _check_room(directory.parent, contents)
        draft.mkdir()
        try:
            (draft / CONTENTS).write_bytes(contents.to_json())
            for name, data in _members(file, archive, contents):
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                mode = 0o755 if contents.files[name].executable else 0o644
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                with open(descriptor, "wb") as out:
                    out.writelines(data)
            if directory.exists():
                shutil.rmtree(directory)
            draft.replace(directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return contents


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[tarfile.TarFile, Contents]]:
    """The archive after its first file, and what that said."""
    try:
        with tarfile.open(file, "r:") as archive:
            first = archive.next()
            if first is None or first.name != CONTENTS or first.size > MAX_CONTENTS_BYTES:
                raise NotABundleError(file, "is not a bundle: it does not begin with bundle.json")
            text = _data(archive, first).read()
            try:
                contents = read_contents(text)
            except ValueError as error:
                raise NotABundleError(file, f"its {CONTENTS} {error}") from None
            yield archive, contents
    except tarfile.TarError as error:
        raise NotABundleError(file, f"is not a bundle, or is cut short ({error})") from None


def _members(
    file: Path, archive: tarfile.TarFile, contents: Contents
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Every file with its bytes; the checks are done when the last of them was read."""
    missing = dict(contents.files)
    while (member := archive.next()) is not None:
        entry = missing.pop(member.name, None)
        if entry is None or not member.isreg():
            # Also a second one of the same name, a link, a path out of the directory.
            raise NotABundleError(file, f"holds {member.name!r}, which its {CONTENTS} does not")
        if member.size != entry.size_bytes:
            raise NotABundleError(file, f"{member.name} has another size than it should")
        digest = hashlib.sha256()
        blocks = _blocks(file, _data(archive, member), member, digest)
        yield member.name, blocks
        for _ in blocks:  # what the caller has not read
            pass
        if digest.hexdigest() != entry.sha256:
            raise NotABundleError(file, f"{member.name} is damaged: its checksum is another one")
    if missing:
        name = next(iter(missing))
        raise NotABundleError(
            file, f"is cut short: it lacks {len(missing)} of its files, as {name}"
        )


def _blocks(
    file: Path, data: IO[bytes], member: tarfile.TarInfo, digest: hashlib._Hash
) -> Iterator[bytes]:
    left = member.size
    while left:
        block = data.read(min(left, _BLOCK))
        if not block:
            raise NotABundleError(file, f"is cut short within {member.name}")
        left -= len(block)
        digest.update(block)
        yield block


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    data = archive.extractfile(member)
    if data is None:
        raise tarfile.ReadError(f"{member.name} is no file")
    return data


def _check_room(parent: Path, contents: Contents) -> None:
    needed, free = contents.total_bytes() + MARGIN_BYTES, shutil.disk_usage(parent).free
    if free < needed:
        raise BundleError(
            f"{parent}: unpacking needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        )
