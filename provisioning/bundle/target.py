"""The machines a bundle is for: a version of Python on an architecture."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from provisioning.bundle.errors import BundleError

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ARCHITECTURES = ("x86_64", "aarch64")
# Ubuntu 22.04's, the oldest of the systems this project runs on: what runs there runs on all.
GLIBC = (2, 35)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """`python` as `3.11`, `architecture` as `uname -m` says it."""

    python: str
    architecture: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.architecture}"

    def platforms(self) -> Iterator[str]:
        """The tags of wheels that run there, newest first, as pip wants them."""
        major, minor = GLIBC
        for older in range(minor, 4, -1):
            yield f"manylinux_{major}_{older}_{self.architecture}"
        for year in (2014, 2010, 1):
            yield f"manylinux{year}_{self.architecture}"

    def markers(self) -> dict[str, str]:
        """What a lock's environment markers see there."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def this_machine() -> Target:
    """With the Python that runs this."""
    return Target(f"{sys.version_info[0]}.{sys.version_info[1]}", os.uname().machine)


def glibc() -> tuple[int, int] | None:
    """This machine's; None where it has another C library."""
    name, version = platform.libc_ver()
    if name != "glibc":
        return None
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def parse_targets(pythons: str | None, architectures: str | None) -> tuple[Target, ...]:
    """Comma-separated lists, every one with every other; None is this machine's.

    Raises `BundleError` for one that this project does not run on.
    """
    here = this_machine()
    chosen = []
    for what, given, own, known in (
        ("Python", pythons, here.python, PYTHONS),
        ("architecture", architectures, here.architecture, ARCHITECTURES),
    ):
        names = sorted(set((given or own).split(",")))
        for name in names:
            if name not in known:
                raise BundleError(f"{what} {name!r}: expected one or more of {', '.join(known)}")
        chosen.append(names)
    return tuple(Target(python, name) for python in chosen[0] for name in chosen[1])
