"""Where a knob's value stands, and how it is read and written there.

A place has an address, a text that finds it again after a restart of this program; the state file
keeps addresses and values.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_TOOL_TIMEOUT_S = 20.0
_CHOSEN = re.compile(r"\[(\S+)\]")


class Tools(Protocol):
    """The programs of this machine."""

    def run(self, *command: str) -> str:
        """What it printed. Raises `OSError` when it is not there or failed."""

    def is_active(self, unit: str) -> bool:
        """Whether systemd runs the unit."""


class InstalledTools:
    """The programs found on PATH."""

    def run(self, *command: str) -> str:
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"{command[0]} did not end within {_TOOL_TIMEOUT_S:g} s") from None
        if ended.returncode != 0:
            told = " ".join((ended.stderr or ended.stdout).split())
            raise OSError(f"{' '.join(command)}: {told or f'exit code {ended.returncode}'}")
        return ended.stdout

    def is_active(self, unit: str) -> bool:
        try:
            self.run("systemctl", "is-active", "--quiet", unit)
        except OSError:
            return False
        return True


class Place(Protocol):
    """One value of this machine. `read` and `write` raise `OSError`; None is "nothing there"."""

    @property
    def address(self) -> str: ...

    def read(self) -> str | None: ...

    def write(self, value: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class KernelFile:
    """A file of /sys or /proc; of several words the one in brackets counts."""

    root: Path
    path: str

    @property
    def address(self) -> str:
        return f"file:{self.path}"

    def read(self) -> str | None:
        text = (self.root / self.path).read_text().strip()
        chosen = _CHOSEN.search(text)
        return chosen[1] if chosen else text

    def write(self, value: str | None) -> None:
        # Never created: where the kernel has no such file, one is not to be made up.
        with os.fdopen(os.open(self.root / self.path, os.O_WRONLY | os.O_TRUNC), "w") as file:
            file.write(f"{value}\n")


@dataclass(frozen=True, slots=True)
class DropIn:
    """A file that changes a unit of systemd, which is told to read it."""

    root: Path
    path: str
    tools: Tools

    @property
    def address(self) -> str:
        return f"drop-in:{self.path}"

    def read(self) -> str | None:
        try:
            return (self.root / self.path).read_text()
        except FileNotFoundError:
            return None

    def write(self, value: str | None) -> None:
        file = self.root / self.path
        if value is None:
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other people's drop-ins are in there
                file.parent.rmdir()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value)
        self.tools.run("systemctl", "daemon-reload")


@dataclass(frozen=True, slots=True)
class PowerProfile:
    """The profile of power-profiles-daemon."""

    tools: Tools
    address: str = "power-profiles-daemon"

    def read(self) -> str | None:
        return self.tools.run("powerprofilesctl", "get").strip()

    def write(self, value: str | None) -> None:
        self.tools.run("powerprofilesctl", "set", str(value))


@dataclass(frozen=True, slots=True)
class TunedProfile:
    """The profile of tuned; None: it has none."""

    tools: Tools
    address: str = "tuned"

    def read(self) -> str | None:
        _, colon, name = self.tools.run("tuned-adm", "active").partition("profile:")
        return name.split()[0] if colon and name.split() else None

    def write(self, value: str | None) -> None:
        command: Sequence[str] = ("off",) if value is None else ("profile", value)
        self.tools.run("tuned-adm", *command)


def place_at(address: str, root: Path, tools: Tools) -> Place:
    """The place with this address. Raises `ValueError` for one that is none."""
    kind, _, path = address.partition(":")
    if kind == "file":
        return KernelFile(root, path)
    if kind == "drop-in":
        return DropIn(root, path, tools)
    if kind == "power-profiles-daemon":
        return PowerProfile(tools)
    if kind == "tuned":
        return TunedProfile(tools)
    raise ValueError(f"{address!r} is no place of a knob")
