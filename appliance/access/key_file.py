"""The file of API keys: one line each, a name, the key's hash, the day it was made.

The keys themselves are nowhere. Made of 32 random bytes, they cannot be guessed from their SHA-256;
a slow hash, as passwords need, would only slow down every request.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEY_PREFIX = "sk-"
"""What OpenAI's keys begin with; some clients refuse others."""

_HEADER = "# API keys of qwen-appliance: name, hash, day. Written by `qwen-appliance key`.\n"
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_LINE = re.compile(
    rf"(?P<name>{_NAME.pattern}) sha256:(?P<digest>[0-9a-f]{{64}})(?: (?P<created>\S+))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key: who has it, the SHA-256 of its text in hex, the day it was made (ISO 8601)."""

    name: str
    digest: str
    created: str


def is_name(text: str) -> bool:
    """Whether a key may be called `text`: up to 64 letters, digits, dots, dashes, underscores."""
    return _NAME.fullmatch(text) is not None


def digest_of(key: str) -> str:
    """The hash under which `key` is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def make_key(name: str) -> tuple[str, KeyRecord]:
    """A new key, and what is stored of it."""
    assert is_name(name)
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return key, KeyRecord(name, digest_of(key), today)


def read_keys(path: Path) -> list[KeyRecord]:
    """The keys in the file. Raises `OSError`, and `ValueError` that names the line at fault."""
    records: list[KeyRecord] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"line {number} is no `NAME sha256:HASH DAY`")
        if match["name"] in {record.name for record in records}:
            raise ValueError(f"line {number} names {match['name']} again")
        records.append(KeyRecord(match["name"], match["digest"], match["created"] or ""))
    return records


def write_keys(path: Path, records: list[KeyRecord]) -> None:
    """Replace the file as a whole, readable by its owner alone. Raises `OSError`.

    Written by root, the file of somebody else stays theirs: the service's user must read it.
    """
    lines = [f"{r.name} sha256:{r.digest} {r.created}".rstrip() + "\n" for r in records]
    # mkstemp makes it with mode 0600.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".api-keys-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(_HEADER + "".join(lines))
            file.flush()
            os.fsync(descriptor)
            if path.exists() and os.geteuid() == 0:
                owner = path.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile; its directory must exist."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
