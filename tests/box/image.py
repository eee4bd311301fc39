"""The boxes' image: Debian with systemd, and the service's packages without the service.

Made once and kept outside the checkout, in `$XDG_CACHE_HOME/qwen-appliance-tests`, under names that
change with what is in them: Debian first, a copy of it with the packages of the lock second. It
takes a minute or two and 1.1 GB.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "provisioning" / "requirements" / "run.lock"
SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
DEBIAN = "systemd,systemd-sysv,dbus,python3,iproute2,curl"
PACKAGES = f"{DEBIAN},python3-venv"
VENV = Path("opt/qwen-appliance/venv")
SITE_PACKAGES = VENV / "lib" / f"python{PYTHON}" / "site-packages"
# What runs with that suite's glibc, 2.36; newest first, as pip wants them.
PLATFORMS = (
    *(f"manylinux_2_{minor}" for minor in range(36, 4, -1)),
    *("manylinux2014", "manylinux2010", "manylinux1"),
)
# A gateway's: python3-apt for Ansible's module.
GATEWAY_NEEDS = ("python3-apt",)
GATEWAY_INSTALLS = ("haproxy", "procps")
UNUSED_S = 7 * 24 * 3600
NEEDED = {"systemd-nspawn": "systemd-container", "ip": "iproute2", "nsenter": "util-linux"}


class NoBoxError(Exception):
    """What this machine lacks."""


def provide() -> Path:
    """The image's directory.

    Raises `NoBoxError` where boxes cannot be booted; a machine that could and makes no image fails.
    """
    return provide_as("image", (LOCK.read_text(),), _build_image)


def provide_gateway() -> Path:
    """The same for a gateway: what Ansible needs, and what it is to install, not installed.

    A box has no internet; apt finds its lists and the packages where it keeps what it downloaded.
    """
    return provide_as("gateway", (*GATEWAY_NEEDS, *GATEWAY_INSTALLS), _build_gateway)


def provide_as(kind: str, made_of: Sequence[str], build: Callable[[Path, Path], None]) -> Path:
    """What `build(root, base)` makes of Debian, which is in `base`; kept under these ingredients.

    `build` makes the directory `root`. Raises `NoBoxError` as `provide` does.
    """
    _check_host()
    with _cache() as cache:
        base = _kept(cache, "base", (PACKAGES,), _build_base)
        image = _kept(cache, kind, (base.name, *made_of), lambda root: build(root, base))
        _remove_unused(cache)
    return image


def provide_debian(suite: str) -> Path:
    """Debian of this suite, with nothing of ours, and without Python's pip.

    Raises `NoBoxError` as `provide` does.
    """
    _check_host()
    with _cache() as cache:
        return _kept(cache, suite, (DEBIAN,), lambda root: _debootstrap(suite, DEBIAN, root))


def kept(kind: str, made_of: Sequence[str], build: Callable[[Path], None]) -> Path:
    """A directory of something else that is costly to make, kept beside the images."""
    with _cache() as cache:
        return _kept(cache, kind, made_of, build)


def _check_host() -> None:
    if os.geteuid() != 0:
        raise NoBoxError("needs root")
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            raise NoBoxError(f"needs {program} (apt-get install {package})")


@contextmanager
def _cache() -> Iterator[Path]:
    """Where everything is kept, locked."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(home).expanduser() / "qwen-appliance-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def _kept(cache: Path, kind: str, made_of: Sequence[str], build: Callable[[Path], None]) -> Path:
    """The directory for these ingredients, built if it is not there."""
    parts = (SUITE, PYTHON, str(VENV), os.uname().machine, *made_of)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    kept, unfinished = cache / f"{kind}-{digest}", cache / "unfinished"
    if not kept.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        build(unfinished)
        unfinished.rename(kept)
    os.utime(kept)
    return kept


def _remove_unused(cache: Path) -> None:
    """What was made of other ingredients, once nobody has used it for a week."""
    for kept in cache.glob("*-*"):
        if time.time() - kept.stat().st_mtime > UNUSED_S:
            shutil.rmtree(kept)


def _debootstrap(suite: str, packages: str, root: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise NoBoxError("needs debootstrap (apt-get install debootstrap)")
    run("debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root))
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def _build_base(root: Path) -> None:
    _debootstrap(SUITE, PACKAGES, root)
    in_image(root, "python3", "-m", "venv", "--without-pip", f"/{VENV}")


def _build_image(root: Path, base: Path) -> None:
    run("cp", "-a", "--reflink=auto", str(base), str(root))
    # The host's pip, which is set up for the host's package index; not its Python.
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"),
        *("--implementation", "cp", "--python-version", PYTHON),
        *(f"--platform={platform}_{os.uname().machine}" for platform in PLATFORMS),
        *("--target", str(root / SITE_PACKAGES), "--upgrade", "-r", str(LOCK)),
    )
    in_image(root, "python3", "-m", "compileall", "-q", "-j0", f"/{SITE_PACKAGES}")


def _build_gateway(root: Path, base: Path) -> None:
    run("cp", "-a", "--reflink=auto", str(base), str(root))
    install = ("apt-get", "install", "-y", "--no-install-recommends")
    in_image(root, "apt-get", "update")
    in_image(root, *install, *GATEWAY_NEEDS)
    in_image(root, *install, "--download-only", *GATEWAY_INSTALLS)


def in_image(image: Path, *command: str) -> None:
    """A command inside an image that is being built. It must succeed."""
    run("chroot", str(image), *command)


def run(*command: str) -> None:
    """A command of this machine. It must succeed."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (
        f"{' '.join(command)}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
    )
