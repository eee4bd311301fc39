"""Makes the project's virtual environments: `python provisioning/venvs.py run build`.

One per world, each from one lock; see `world.py`. Standard library only: this runs before anything
is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from provisioning.lanes import Lane, run_all  # noqa: E402 (found by the line above)
from provisioning.world import PIP_WHEEL, Venv, VenvError, World  # noqa: E402

BUILD = World(".venv-build", lock="build.lock", torch=True)
TEST = World(".venv-test", lock="test.lock", editable=True)
WORLDS = {
    "build": BUILD,  # first, because it takes longest
    "run": World(".venv", lock="run.lock", editable=True),
    "test": TEST,
    "build-test": World(".venv-build-test", borrows=(BUILD, TEST)),
    "clients": World(".venv-clients", lock="clients.lock", borrows=(TEST,)),
    "provision": World(".venv-provision", lock="provision.lock"),
}


def _provide_venv_module() -> None:
    """Debian ships Python without the module that puts pip into a venv; install it or say how."""
    if importlib.util.find_spec("ensurepip") is not None or PIP_WHEEL in os.environ:
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    if os.path.realpath("/usr/bin/python3") == os.path.realpath(sys.executable):
        package = "python3-venv"
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise VenvError(f"Python's venv module is not complete here: sudo apt install {package}")
    sys.stderr.write(f"installing {package}\n")
    for arguments in (("update", "-qq"), ("install", "-y", "-qq", package)):
        done = subprocess.run([apt, *arguments], stdout=sys.stderr, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise VenvError(f"apt-get {' '.join(arguments)} failed; install {package} by hand")


def ensure(names: Sequence[str], root: Path = ROOT) -> None:
    """Have the venvs of the named worlds, and of those they borrow from, ready below `root`.

    Raises `VenvError` when one could not be made.
    """
    named = [WORLDS[name] for name in names]
    borrowed = {world for borrower in named for world in borrower.borrows}
    _make([world for world in WORLDS.values() if world in borrowed or world in named], root)


def _make(worlds: Sequence[World], root: Path) -> None:
    """Make those that are not ready: two at a time, and the borrowers after the lenders."""
    missing = [world for world in worlds if not Venv(root, world).is_ready()]
    if missing:
        _provide_venv_module()
    for is_borrower in (False, True):
        turn = [world for world in missing if bool(world.borrows) is is_borrower]
        lanes = [Lane(world.directory, Venv(root, world).make) for world in turn]
        run_all(lanes, at_once=2)
        for lane in lanes:
            if lane.error is not None:
                raise lane.error


def main() -> int:
    """The command: worlds as arguments, exit status 1 when one could not be made."""
    unknown = sorted(set(sys.argv[1:]) - set(WORLDS))
    if unknown:
        sys.stderr.write(f"venvs: no world {unknown[0]!r}; there are {', '.join(WORLDS)}\n")
        return 2
    try:
        ensure(sys.argv[1:])
    except (VenvError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the next run begins what is missing anew\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
