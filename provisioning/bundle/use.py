"""Uses a bundle: unpacks it, installs Ansible from it, tells the playbook where the rest is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from provisioning.bundle.contents import CODE, MODEL, Contents
from provisioning.bundle.errors import BundleError
from provisioning.bundle.target import glibc, this_machine
from provisioning.bundle.unpack import unpack
from provisioning.world import PIP_WHEEL

VARIABLES = "variables.json"


def prepare(file: Path, directory: Path) -> Contents:
    """Unpack into `directory` and make what is needed to run the playbook there.

    `directory/variables.json` names the wheels and the model directory to the playbook. Raises
    `BundleError` when this machine is not one that the bundle was made for.
    """
    directory = directory.absolute()
    contents = unpack(file, directory, check_machine)
    _make_venv(directory)
    variables = {
        "qwen_appliance_model_dir": str(directory / MODEL / contents.model),
        "qwen_appliance_wheels": str(directory / "wheels" / "run"),
    }
    (directory / VARIABLES).write_text(json.dumps(variables) + "\n", encoding="utf-8")
    return contents


def check_machine(contents: Contents) -> None:
    """Raise `BundleError` unless there are wheels for this machine and this Python."""
    here = this_machine()
    if not contents.for_target(here):
        have = "; ".join(str(each.target) for each in contents.targets)
        raise BundleError(
            f"the bundle is for {have}; this is {here}. Make it with --bundle-python "
            f"{here.python} --bundle-arch {here.architecture}, or name another Python of this "
            "machine: PYTHON=/path/to/python3"
        )
    here_glibc = glibc()
    if here_glibc is None or here_glibc < contents.glibc:
        has = "another C library" if here_glibc is None else f"glibc {_dotted(here_glibc)}"
        raise BundleError(f"the bundle needs glibc {_dotted(contents.glibc)}; this has {has}")


def _make_venv(directory: Path) -> None:
    wheels = directory / "wheels" / "provision"
    (pip,) = wheels.glob("pip-*.whl")
    # Percent-encoded, since pip takes a space for the end of a path.
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri(), PIP_WHEEL: str(pip)}
    command = (sys.executable, str(directory / CODE / "provisioning" / "venvs.py"), "provision")
    made = subprocess.run(command, env=os.environ | offline, check=False)
    if made.returncode:
        raise BundleError("Ansible could not be installed from the bundle; the lines above say why")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
