"""The wheels of a lock for a machine that need not be this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provisioning.bundle.errors import BundleError
from provisioning.bundle.target import GLIBC, Target

LINES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Pin:
    """One package at one version; `hashes` as pip's lines have them, `sha256:...`."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def pins_of(lock: Path, target: Target) -> list[Pin]:
    """Those that apply there: pip would ask the markers of the machine it runs on."""
    pins = []
    for line in lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        text, *hashes = line.split("--hash=")
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(target.markers()):
            (specifier,) = requirement.specifier
            pins.append(
                Pin(canonicalize_name(requirement.name), specifier.version, _stripped(hashes))
            )
    return pins


def download(lock: Path, target: Target, directory: Path) -> tuple[str, ...]:
    """Fetch the target's wheels into `directory`, which is made, with pip and its index.

    pip checks the lock's hashes. Returns the file names, in order. Raises `BundleError` when a
    package has no wheel for the target, or the index cannot be reached.
    """
    directory.mkdir(parents=True)
    pins = pins_of(lock, target)
    wanted = directory.with_name(f"{directory.name}.txt")
    lines = (f"{pin} {' '.join(f'--hash={each}' for each in pin.hashes)}\n" for pin in pins)
    wanted.write_text("".join(lines), encoding="utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", target.python),
            *(f"--platform={platform}" for platform in target.platforms()),
            *("--dest", str(directory), "-r", str(wanted)),
        ],
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise BundleError(_reason(ended.stdout + ended.stderr, target))
    wheels = sorted(path.name for path in directory.iterdir())
    have = {parse_wheel_filename(name)[:2] for name in wheels}
    for pin in pins:
        if (canonicalize_name(pin.name), Version(pin.version)) not in have:
            raise _no_wheel(str(pin), target)
    return tuple(wheels)


def _stripped(hashes: list[str]) -> tuple[str, ...]:
    return tuple(text.strip() for text in hashes)


def _reason(said: str, target: Target) -> str:
    missing = re.search(r"No matching distribution found for (\S+)", said)
    if missing and "Connection" not in said:
        return str(_no_wheel(missing[1], target))
    last = "\n".join(f"  {line}" for line in said.strip().splitlines()[-LINES_SHOWN:])
    return f"pip could not download the wheels for {target}:\n{last}"


def _no_wheel(pin: str, target: Target) -> BundleError:
    major, minor = GLIBC
    return BundleError(f"{pin} has no wheel for {target} with glibc {major}.{minor}")
