"""A checkout with everything that bundles need and nothing else, and an index of tiny wheels."""

from __future__ import annotations

import ensurepip
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

from appliance.model_dir import sha256_of
from provisioning.bundle.target import this_machine
from tests import tiny_model

ROOT = Path(__file__).resolve().parents[3]
CODE = (
    *(f"appliance/{name}.py" for name in ("__init__", "errors", "model_dir")),
    *(f"provisioning/{name}.py" for name in ("__init__", "lanes", "venvs", "world")),
    "pyproject.toml",
)
HERE = this_machine()
TAG = f"cp{HERE.python.replace('.', '')}"
# Says how it was called instead of provisioning anything.
PROVISION = """#!/bin/bash
printf '%s\\n' "$0" "$@"
"""


@dataclass(frozen=True)
class Ground:
    """Where a test makes bundles."""

    checkout: Path
    index: Path
    model_dir: Path

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command of the tiny checkout; it can download from the tiny index alone."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        return subprocess.run(
            [sys.executable, self.checkout / "provisioning/bundle", *arguments],
            env=kept
            | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PYTHONPATH": ""}
            | {"PIP_FIND_LINKS": self.index.as_uri()}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, out: Path, *options: str) -> Path:
        """A bundle that must succeed."""
        made = self.run("make", out, "--model-dir", self.model_dir, *options)
        assert made.returncode == 0, made.stderr
        return out


def lay(directory: Path) -> Ground:
    """The service is made of `plain` and `fast` (compiled for this machine), Ansible of `play`."""
    checkout, index = directory / "a check out", directory / "in dex"
    index.mkdir(parents=True)
    for name in CODE:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "provisioning/bundle", checkout / "provisioning/bundle", ignore=ignored)
    script = checkout / "provisioning/provision.sh"
    script.write_text(PROVISION)
    script.chmod(0o755)
    # A character that systemd's names of units have.
    (checkout / r"run-qwen\x2dappliance.mount").write_text("[Mount]\n")
    platform = f"{TAG}-{TAG}-manylinux_2_17_{HERE.architecture}"
    pins = {
        "run": [
            pin(index, "plain", "py3-none-any"),
            pin(index, "fast", platform),
            f"older==1.0 ; python_full_version < '3.10' \\\n    --hash=sha256:{'0' * 64}\n",
        ],
        "provision": [pin(index, "play", "py3-none-any"), copied_pip(index)],
    }
    requirements = checkout / "provisioning/requirements"
    requirements.mkdir()
    for lock, lines in pins.items():
        (requirements / f"{lock}.lock").write_text("# made by a test\n" + "".join(lines))
    return Ground(checkout, index, tiny_model.make(directory / "tiny"))


def copied_pip(index: Path) -> str:
    """This Python's pip in the index; the lock's lines for it."""
    debians = sysconfig.get_config_var("WHEEL_PKG_DIR")
    directory = Path(debians or Path(ensurepip.__file__).with_name("_bundled"))
    wheel = next(directory.glob("pip-*.whl"))
    shutil.copy(wheel, index)
    return f"pip=={wheel.name.split('-')[1]} \\\n    --hash=sha256:{sha256_of(wheel)}\n"


def pin(index: Path, name: str, tag: str) -> str:
    """A wheel in the index; the lock's lines for it."""
    path, metadata = index / f"{name}-1.0-{tag}.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"name = {name!r}\n")
        wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0")
        wheel.writestr(
            f"{metadata}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        wheel.writestr(f"{metadata}/RECORD", "")
    return f"{name}==1.0 \\\n    --hash=sha256:{sha256_of(path)}\n    # via a test\n"
