"""One virtual environment: what it holds, how it is made, and when it has to be made again.

A finished one carries a stamp and costs milliseconds from then on; one that is stale or was
interrupted is cleared and made again where it is, since its scripts hold their own path.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioning.lanes import Lane

# Names a pip to make venvs with, as a wheel, where Python has none: Debian's, without python3-venv.
PIP_WHEEL = "QWEN_APPLIANCE_PIP_WHEEL"
RECIPE = "1"  # another value has every venv made again: change it with the way they are made
STAMP = "stamp"
LOG = "install.log"
LOG_LINES_SHOWN = 12


class VenvError(Exception):
    """A virtual environment could not be made; the text is for the person who waits."""


@dataclass(frozen=True, slots=True)
class World:
    """What one virtual environment holds.

    `lock` is a file of `provisioning/requirements/`. `editable`: the service is installed too,
    with its commands; otherwise the whole checkout can be imported. `torch`: torch comes on its
    own, see `install_torch.py`. `borrows` are worlds whose packages are seen from here, the first
    one's first; they must be ready.
    """

    directory: str
    lock: str | None = None
    editable: bool = False
    torch: bool = False
    borrows: tuple[World, ...] = ()


class Venv:
    """One world's directory below the checkout `root`, made with the Python that runs this."""

    def __init__(self, root: Path, world: World) -> None:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.path = root / world.directory
        self.python = self.path / "bin" / "python"
        self.site_packages = self.path / "lib" / version / "site-packages"
        self._root, self._world = root, world
        self._requirements = root / "provisioning" / "requirements"

    def is_ready(self) -> bool:
        """Whether the stamp is there and says what would be made now."""
        try:
            stamp = (self.path / STAMP).read_text(encoding="utf-8")
        except OSError:
            return False
        return stamp == self._expected_stamp() and self.python.exists()

    def make(self, lane: Lane) -> None:
        """Clear the directory and make the venv, unless another process has just made it.

        Raises `VenvError` with the end of the log when a step fails.
        """
        self.path.mkdir(exist_ok=True)
        with _locked(self.path) as lock:
            if self.is_ready():
                return
            _clear(self.path)
            lane.log = self.path / LOG
            lane.log.touch()
            for step in self._install_steps():
                self._run(lane, step, lock)
            if self._world.editable:
                # setuptools writes beside pyproject.toml, and two venvs may be made at once.
                with _locked(self._root / "pyproject.toml"):
                    self._run(lane, self._editable_step(), lock)
            else:
                self._write_paths()
            self._write_stamp()

    def _install_steps(self) -> Iterator[Sequence[str | Path]]:
        base_python = getattr(sys, "_base_executable", sys.executable)  # not a venv's own
        if self._world.lock is None:
            yield (base_python, "-m", "venv", "--without-pip", self.path)
            return
        without_pip = ("--without-pip",) if PIP_WHEEL in os.environ else ()
        yield (base_python, "-m", "venv", *without_pip, self.path)
        lock = self._requirements / self._world.lock
        # Compiled by all cores at once afterwards; pip does it on one.
        yield (*self._pip_install(), "--no-compile", "--no-deps", "--require-hashes", "-r", lock)
        if self._world.torch:
            # Not compiled: a conversion imports a tenth of these files and compiles those itself.
            yield (self.python, self._root / "provisioning" / "install_torch.py")
        else:
            yield (self.python, "-m", "compileall", "-q", "-j", "0", self.site_packages)

    def _editable_step(self) -> Sequence[str | Path]:
        return (*self._pip_install(), "--no-deps", "--no-build-isolation", "-e", self._root)

    def _pip_install(self) -> Sequence[str | Path]:
        wheel = os.environ.get(PIP_WHEEL)
        pip = (f"{wheel}/pip",) if wheel else ("-m", "pip")
        return (self.python, *pip, "install", "--no-input", "--progress-bar", "off")

    def _run(self, lane: Lane, command: Sequence[str | Path], lock: int) -> None:
        log_path = self.path / LOG
        with log_path.open("ab") as log:
            # The command keeps the lock too: should this process be killed, a pip that is still
            # writing holds off whoever comes to clear the directory.
            status = lane.call(command, log, cwd=self._root, env=_environment(), keep_open=lock)
        if status:
            last_lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            raise VenvError(
                f"{self._world.directory} could not be made (exit status {status}); the end of "
                f"{log_path}:\n" + "\n".join(f"  {line}" for line in last_lines[-LOG_LINES_SHOWN:])
            )

    def _write_paths(self) -> None:
        borrowed = [Venv(self._root, world).site_packages for world in self._world.borrows]
        lines = "".join(f"{path}\n" for path in (self._root, *borrowed))
        (self.site_packages / "checkout.pth").write_text(lines, encoding="utf-8")

    def _expected_stamp(self) -> str:
        digest = hashlib.sha256()
        for name in (self._world.lock, "torch.txt" if self._world.torch else None):
            digest.update((self._requirements / name).read_bytes() if name else b"")
        python = f"{sys.version_info[0]}.{sys.version_info[1]} of {sys.base_prefix}"
        return f"recipe {RECIPE}\npython {python}\nplace {self.path}\nlock {digest.hexdigest()}\n"

    def _write_stamp(self) -> None:
        """Last, and by a rename: a venv with a stamp is whole."""
        draft = self.path / f"{STAMP}.new"
        draft.write_text(self._expected_stamp(), encoding="utf-8")
        draft.replace(self.path / STAMP)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the lock on a file or directory; yields its descriptor."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _clear(directory: Path) -> None:
    """Empty the directory and keep it, since the lock is on it; the stamp goes first."""
    (directory / STAMP).unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _environment() -> dict[str, str]:
    """This process's environment without what would make pip or Python look elsewhere."""
    elsewhere = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
