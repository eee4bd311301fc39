"""The boxes' image: Debian with systemd, and the service's packages without the service.

Made once and kept outside the checkout, in `$XDG_CACHE_HOME/qwen-appliance-tests`, under a name
that changes with what is in it. It takes about two minutes and 700 MB.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "provisioning" / "requirements" / "run.lock"
SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,iproute2,curl"
VENV = Path("opt/qwen-appliance/venv")
SITE_PACKAGES = VENV / "lib" / f"python{PYTHON}" / "site-packages"
# Newest first, as pip wants them; Debian 12 has glibc 2.36.
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5")
UNUSED_S = 7 * 24 * 3600
NEEDED = {"systemd-nspawn": "systemd-container", "ip": "iproute2", "nsenter": "util-linux"}


class NoImageError(Exception):
    """Why there can be none on this machine."""


def provide() -> Path:
    """The image's directory. Raises `NoImageError` where boxes cannot be booted."""
    if os.geteuid() != 0:
        raise NoImageError("needs root")
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            raise NoImageError(f"needs {program} (apt-get install {package})")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(base).expanduser() / "qwen-appliance-tests"
    image = cache / f"{SUITE}-{_key()}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.is_dir():
            if shutil.which("debootstrap") is None:
                raise NoImageError("needs debootstrap (apt-get install debootstrap)")
            _build(image)
        os.utime(image)
        _remove_unused(cache)
    return image


def _key() -> str:
    parts = (LOCK.read_text(), SUITE, PYTHON, PACKAGES, str(VENV), os.uname().machine)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _remove_unused(cache: Path) -> None:
    """Images of other locks, once nobody has used them for a week."""
    for image in cache.glob(f"{SUITE}-*"):
        if time.time() - image.stat().st_mtime > UNUSED_S:
            shutil.rmtree(image)


def _build(image: Path) -> None:
    partial = image.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(partial))
    shutil.rmtree(partial / "var/cache/apt/archives", ignore_errors=True)
    _in_image(partial, "python3", "-m", "venv", "--without-pip", f"/{VENV}")
    # The host's pip, which is set up for the host's package index; not its Python.
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"),
        *("--implementation", "cp", "--python-version", PYTHON),
        *(f"--platform={platform}_{os.uname().machine}" for platform in PLATFORMS),
        *("--target", str(partial / SITE_PACKAGES), "--upgrade", "-r", str(LOCK)),
    )
    _in_image(partial, "python3", "-m", "compileall", "-q", f"/{SITE_PACKAGES}")
    partial.rename(image)


def _in_image(image: Path, *command: str) -> None:
    _run("chroot", str(image), *command)


def _run(*command: str) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        told = (ended.stdout + ended.stderr).strip().splitlines()[-3:]
        raise NoImageError(f"{command[0]} failed, so there is no image: {' '.join(told)}")
