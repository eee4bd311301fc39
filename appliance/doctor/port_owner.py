"""Which program listens on a port."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

_LISTENING = "0A"


def port_owner(root: Path, port: int) -> str | None:
    """Its name and process, or the user it runs as if that is all we may see; None: not found."""
    for table in ("proc/net/tcp", "proc/net/tcp6"):
        for uid, inode in _listeners(root / table, port):
            return _process(root / "proc", inode) or f"a program of {_user(uid)}"
    return None


def _listeners(table: Path, port: int) -> list[tuple[int, str]]:
    """User and inode of each listening socket (proc(5): /proc/net/tcp)."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in table.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                found.append((int(words[7]), words[9]))
    return found


def _process(proc: Path, inode: str) -> str | None:
    """The first process, of those that we may look into, that has the socket open."""
    for directory in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (directory / "fd").iterdir():
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    name = (directory / "comm").read_text().strip()
                    return f"{name}, process {directory.name}"
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
