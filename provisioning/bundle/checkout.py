"""Which files of a checkout are its code."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from provisioning.bundle.errors import BundleError

# What is made in a checkout, for one that git does not know: as .gitignore has it.
_MADE = {"__pycache__", "build", "dist", "models", "node_modules"}


def code_files(checkout: Path) -> list[str]:
    """Names relative to `checkout`, in order: what git knows as it is on the disk now, or, where
    this is no checkout of git's, everything but caches and what the scripts make.

    Raises `BundleError` for one that is no plain file.
    """
    names = sorted(_known_to_git(checkout) or _found(checkout))
    for name in names:
        if not stat.S_ISREG((checkout / name).lstat().st_mode):
            raise BundleError(f"{checkout / name} is no plain file, and cannot be in a bundle")
    return names


def version_of(checkout: Path) -> str:
    """The version that its code has. Raises `BundleError` when it is no checkout of ours."""
    file = checkout / "appliance" / "__init__.py"
    try:
        found = re.search(r'^__version__ = "(.+)"$', file.read_text(encoding="utf-8"), re.M)
    except OSError as error:
        raise BundleError(f"{checkout} is no checkout: {error}") from error
    if found is None:
        raise BundleError(f"{file} has no version")
    return found[1]


def _known_to_git(checkout: Path) -> list[str]:
    # Root may read a checkout of somebody else's.
    git = ("git", "-c", f"safe.directory={checkout}", "-C", str(checkout))
    if not (checkout / ".git").exists():  # a folder within somebody else's repository
        return []
    try:
        listed = subprocess.run((*git, "ls-files", "-z"), capture_output=True, check=False)
    except OSError:
        return []
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    return [name for name in names if name and os.path.lexists(checkout / name)]


def _found(checkout: Path) -> Iterator[str]:
    for directory, inner, names in os.walk(checkout):
        inner[:] = [name for name in inner if not _is_made(name)]
        here = Path(directory).relative_to(checkout)
        for name in names:
            if not name.endswith((".pyc", ".pyo")):
                yield (here / name).as_posix()


def _is_made(directory: str) -> bool:
    is_hidden = directory.startswith(".") and directory not in (".ci", ".github")
    return is_hidden or directory in _MADE or directory.endswith(".egg-info")
