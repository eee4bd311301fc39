"""A peer's own virtual environment: `.venv-bench-NAME` in the checkout, from a file of pins.

Made when it is first needed; one that carries a stamp of the same recipe is used as it is. Not
locked by hash like the project's own: nothing of a peer reaches a user's machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.harness.fleet import UnavailableError

_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
_STAMP = "stamp"
_LOG = "install.log"


class PeerVenv:
    """The venv of one peer. `torch`: its CPU build is installed first, as for the build world;
    `uninstall` names packages to take out again."""

    def __init__(
        self, root: Path, name: str, *, torch: bool = False, uninstall: Sequence[str] = ()
    ) -> None:
        self.path = root / f".venv-bench-{name}"
        self.python = self.path / "bin" / "python"
        self._root, self._torch, self._uninstall = root, torch, tuple(uninstall)
        self._requirements = _REQUIREMENTS / f"{name}.txt"

    def ensure(self) -> Path:
        """Make it unless it is there; its Python. Raises `UnavailableError` with the last line that
        the failing step said."""
        if not self._is_ready():
            self.path.mkdir(exist_ok=True)
            with _locked(self.path):
                if not self._is_ready():
                    self._make()
        return self.python

    def _make(self) -> None:
        sys.stderr.write(f"making {self.path.name} (once; its log is {_LOG} there)\n")
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for command in self._steps():
            self._run(command)
        (self.path / _STAMP).write_text(self._expected_stamp(), encoding="utf-8")

    def _steps(self) -> Iterator[Sequence[str | Path]]:
        base_python = getattr(sys, "_base_executable", sys.executable)  # not a venv's own
        pip = (self.python, "-m", "pip", "--disable-pip-version-check", "--no-input")
        yield (base_python, "-m", "venv", self.path)
        if self._torch:
            # What torch needs comes with the requirements, which find it installed.
            yield (self.python, self._root / "provisioning" / "install_torch.py")
        yield (*pip, "install", "--progress-bar", "off", "-r", self._requirements)
        if self._uninstall:
            yield (*pip, "uninstall", "--yes", *self._uninstall)

    def _run(self, command: Sequence[str | Path]) -> None:
        log_path = self.path / _LOG
        with log_path.open("ab") as log:
            # A compiler may be at work for minutes: be kind to whoever shares the machine.
            done = subprocess.run(
                ["nice", *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if done.returncode:
            text = log_path.read_text(encoding="utf-8", errors="replace").strip()
            last = text.splitlines()[-1] if text else "it said nothing"
            raise UnavailableError(f"{self.path.name} cannot be made: {last[:160]}")

    def _is_ready(self) -> bool:
        try:
            stamp = (self.path / _STAMP).read_text(encoding="utf-8")
        except OSError:
            return False
        return stamp == self._expected_stamp() and self.python.exists()

    def _expected_stamp(self) -> str:
        pins = hashlib.sha256(self._requirements.read_bytes()).hexdigest()
        python = f"{sys.version_info[0]}.{sys.version_info[1]} of {sys.base_prefix}"
        without = " ".join(self._uninstall)
        return f"python {python}\nplace {self.path}\npins {pins}\nwithout {without}\n"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
