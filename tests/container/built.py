"""The Dockerfile's image, built as a user builds it, on Debian as its slim images have it.

Everything that is costly is kept in `$XDG_CACHE_HOME/qwen-appliance-tests`: the base's file system,
the lock's wheels, and the images by their content. pip takes the wheels from there, as from an
index; so the build needs nothing that this host's pip is told and a Dockerfile must not know.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.box.image import LOCK, PLATFORMS, PYTHON, ROOT, SUITE, NoBoxError, kept
from tests.container.podman import Podman

# All that the Dockerfile copies; .dockerignore lets nothing else in.
CONTEXT = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "appliance",
    "provisioning/no-model",
    "provisioning/requirements/run.lock",
)
NAME = "localhost/qwen-appliance"
BASE = "localhost/debian-slim"
# As in Debian's own slim images.
LEFT_OUT = ("doc", "man", "locale", "info", "lintian", "groff")


class Builder:
    """Builds images for one `Podman`, unless they are there."""

    def __init__(self, podman: Podman, home: Path, scratch: Path) -> None:
        self._podman, self._home, self._scratch = podman, home, scratch

    def image(self, model_dir: Path | None = None) -> str:
        """The image's name; with `model_dir` it is baked in."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            base = self._base()
            repository = NAME if model_dir is None else f"{NAME}-with-model"
            name = f"{repository}:{_digest(base, model_dir)}"
            if not self._podman.has_image(name):
                self._build(name, base, model_dir)
                self._remove_others(name)
        return name

    def _base(self) -> str:
        root = kept("slim", LEFT_OUT, _build_base)
        name = f"{BASE}:{root.name}"
        if not self._podman.has_image(name):
            archive = self._scratch / "base.tar"
            _run("tar", "-C", str(root), "--numeric-owner", "-cf", str(archive), ".")
            self._podman("import", str(archive), name)
            archive.unlink()
        return name

    def _build(self, name: str, base: str, model_dir: Path | None) -> None:
        wheels = kept("wheels", (LOCK.read_text(),), _download_wheels)
        pip = self._scratch / "pip.conf"
        pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        context = self._scratch / "context"
        _copy_context(context)
        arguments = ["--build-arg", f"BASE_IMAGE={base}"]
        if model_dir is not None:
            shutil.copytree(model_dir, context / "models" / model_dir.name)
            arguments += ["--build-arg", f"MODEL=models/{model_dir.name}"]
        volumes = (f"--volume={wheels}:/wheels:ro", f"--volume={pip}:/etc/pip.conf:ro")
        self._podman.build(context, name, *arguments, *volumes)
        shutil.rmtree(context)

    def _remove_others(self, name: str) -> None:
        """Older images of the same repository, and what only they were made of."""
        repository = name.rpartition(":")[0]
        listed = self._podman("images", "--format", "{{.Repository}}:{{.Tag}}", repository)
        for other in listed.stdout.split():
            if other != name and other.rpartition(":")[0] == repository:
                self._podman("rmi", other, check=False)


def _digest(base: str, model_dir: Path | None) -> str:
    """Of all that the image is made of."""
    digest = hashlib.sha256(base.encode())
    for part in CONTEXT:
        place = ROOT / part
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    if model_dir is not None:
        digest.update((model_dir / "manifest.json").read_bytes())
    return digest.hexdigest()[:12]


def _copy_context(context: Path) -> None:
    shutil.rmtree(context, ignore_errors=True)
    for part in CONTEXT:
        (context / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, context / part, ignore=ignored)
        else:
            shutil.copy2(ROOT / part, context / part)
    # What must not get in: .dockerignore is tested with it.
    (context / "models" / "other").mkdir(parents=True)
    (context / "secret.txt").write_text("not for the image")


def _build_base(root: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise NoBoxError("needs debootstrap (apt-get install debootstrap)")
    _run("debootstrap", "--variant=minbase", SUITE, str(root))
    for place in ("var/cache/apt", "var/lib/apt/lists", *(f"usr/share/{n}" for n in LEFT_OUT)):
        for inner in (root / place).glob("*"):
            shutil.rmtree(inner) if inner.is_dir() and not inner.is_symlink() else inner.unlink()
    excluded = "".join(f"path-exclude /usr/share/{name}/*\n" for name in LEFT_OUT)
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(excluded)


def _download_wheels(directory: Path) -> None:
    """By the host's pip, which is set up for the host's package index."""
    directory.mkdir()
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--implementation", "cp", "--python-version", PYTHON),
        *(f"--platform={platform}_{os.uname().machine}" for platform in PLATFORMS),
        *("--dest", str(directory), "-r", str(LOCK)),
    )


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (
        f"{' '.join(command)}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
    )
