"""Packs what a box gets: the service, its units, the code that provisions it, and wheels.

    release.py --python 3.11 --architecture x86_64 [--wheels DIR] [--describe]

prints `{"id": ..., "archive": ..., "brings_pip": ...}`. The id is the version and a digest of all
that is in the archive but the wheels, which the lock's hashes fix anyway: the same checkout gives
the same release. The archive is kept in `$XDG_CACHE_HOME/qwen-appliance/releases`; `--describe`
makes none.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent

if TYPE_CHECKING:
    from packaging.requirements import Requirement

RECIPE = "1"  # another value makes every box install anew: change it with `install_release.py`
LOCK = "provisioning/requirements/run.lock"
PROVISION_LOCK = "provisioning/requirements/provision.lock"
TREES = ("appliance", "systemd", "provisioning/box")
FILES = (
    "LICENSE",
    LOCK,
    "provisioning/__init__.py",
    *(
        f"provisioning/build_model/{name}.py"
        for name in ("__init__", "durable", "errors", "publish")
    ),
)
KEPT_ARCHIVES = 2
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_TAG = re.compile(r"(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl$")


class ReleaseError(Exception):
    """No release can be made; the text is for the person who provisions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 and one line when there is no release."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", required=True, metavar="X.Y", help="the box's Python")
    parser.add_argument("--architecture", required=True, metavar="MACHINE", help="`uname -m` there")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels to send along")
    parser.add_argument("--describe", action="store_true", help="make no archive")
    args = parser.parse_args(arguments)
    try:
        files = dict(_files(ROOT))
        release = f"{_version(ROOT)}-{digest_of(files, args.python)}"
        wheels = chosen_wheels(args.wheels, args.python, args.architecture) if args.wheels else []
        pip = pip_among(args.wheels) if args.wheels else None
        wheels += [pip] if pip else []
        archive = None
        if not args.describe:
            archive = str(_archived(release, files, wheels))
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    told = {"id": release, "archive": archive, "wheels": len(wheels), "brings_pip": pip is not None}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def digest_of(files: dict[str, Path], python: str) -> str:
    """Twelve hex digits over names and contents, and the Python that the venv is for."""
    digest = hashlib.sha256(f"{RECIPE}\0{python}\0".encode())
    for name, path in files.items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()[:12]


def _version(root: Path) -> str:
    text = (root / "appliance" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Names below the archive's top, in order, with the files they are."""
    found = [root / name for name in FILES]
    for tree in TREES:
        found += [path for path in (root / tree).rglob("*") if path.is_file()]
    for path in sorted(found):
        if "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix(), path


# The wheels


def chosen_wheels(directory: Path, python: str, architecture: str) -> list[Path]:
    """The files of `directory` that the lock asks for on such a box, one for each package.

    Raises `ReleaseError` that names every package without one.
    """
    if not directory.is_dir():
        raise ReleaseError(f"{directory}: no such directory of wheels")
    there = {
        hashlib.sha256(path.read_bytes()).hexdigest(): path
        for path in sorted(directory.glob("*.whl"))
        if fits(path.name, python, architecture)
    }
    chosen, missing = [], []
    for requirement, hashes in locked((ROOT / LOCK).read_text(encoding="utf-8"), python):
        found = [there[one] for one in hashes if one in there]
        chosen += found[:1]
        missing += [] if found else [str(requirement)]
    if missing:
        raise ReleaseError(
            f"{directory} has no wheel with the lock's hash, for Python {python} on "
            f"{architecture}, of " + ", ".join(missing)
        )
    return chosen


def pip_among(directory: Path) -> Path | None:
    """The pip of the controller's lock, if it is there: for boxes whose Python has none."""
    lock = (ROOT / PROVISION_LOCK).read_text(encoding="utf-8")
    hashes = set(_HASH.findall(lock.partition("\npip==")[2].partition("\n    #")[0]))
    for wheel in sorted(directory.glob("pip-*.whl")):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() in hashes:
            return wheel
    return None


def locked(lock: str, python: str) -> Iterator[tuple[Requirement, list[str]]]:
    """What a lock asks for on Linux with this Python, each with the hashes of its files."""
    from packaging.requirements import Requirement

    environment = {"python_version": python, "python_full_version": f"{python}.99"}
    environment |= {"sys_platform": "linux", "platform_system": "Linux"}
    for block in re.split(r"\n(?=\S)", lock):
        line = block.split("\n")[0].partition(" \\")[0]
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield requirement, _HASH.findall(block)


def fits(wheel: str, python: str, architecture: str) -> bool:
    """Whether a wheel of this name can be meant for such a box, judged by its tags."""
    tag = _TAG.search(wheel)
    if tag is None:
        return False
    mine = int(python.replace(".", ""))
    pythons = tag["python"].split(".")
    numbers = [int(one[2:]) for one in pythons if re.fullmatch(r"cp3\d+", one)]
    is_mine = mine in numbers or (tag["abi"] == "abi3" and any(n <= mine for n in numbers))
    platforms = tag["platform"].split(".")
    return (is_mine or "py3" in pythons) and any(
        one == "any" or one.endswith(f"_{architecture}") for one in platforms
    )


# The archive


def _archived(release: str, files: dict[str, Path], wheels: list[Path]) -> Path:
    """The archive's path; it is made in one step, unless it is there."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(home).expanduser() / "qwen-appliance" / "releases"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = "".join(wheel.name for wheel in wheels)
    mark = f"-{hashlib.sha256(names.encode()).hexdigest()[:8]}" if wheels else ""
    archive = cache / f"{release}{mark}.tar"
    if not archive.exists():
        partial = cache / f".{archive.name}.{os.getpid()}"
        try:
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
                for name, path in files.items():
                    _add(tar, name, path)
                for wheel in wheels:
                    _add(tar, f"wheels/{wheel.name}", wheel)
            partial.replace(archive)
        finally:
            partial.unlink(missing_ok=True)
    os.utime(archive)
    for old in sorted(cache.glob("*.tar"), key=_age)[:-KEPT_ARCHIVES]:
        old.unlink(missing_ok=True)
    return archive


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    """As root's, of no particular day: the same files make the same archive."""
    content = path.read_bytes()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    sys.exit(main())
