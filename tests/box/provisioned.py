"""A bare box with an ssh server, and the controller that provisions it over the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.box.box import Box
from tests.box.fleet import GATEWAY, ansible_playbook
from tests.box.image import (
    LOCK,
    PLATFORMS,
    PYTHON,
    ROOT,
    in_image,
    kept,
    provide_as,
    provide_gateway,
    run,
)
from tests.box.installed import TUNE_PROFILE
from tests.box.net import Net

NAME = "box-1"
PORT = 8000
SSH = ("openssh-server",)
CHECKOUT = ("appliance", "provisioning", "systemd", "LICENSE", "pyproject.toml")


def provide_bare() -> Path:
    """The image of a machine just installed: Debian, Python, an ssh server, nothing of ours."""

    def build(root: Path, base: Path) -> None:
        run("cp", "-a", "--reflink=auto", str(base), str(root))
        shutil.rmtree(root / "opt/qwen-appliance")
        in_image(root, "apt-get", "update")
        in_image(root, "apt-get", "install", "-y", "--no-install-recommends", *SSH)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        for key in (root / "etc/ssh").glob("ssh_host_*"):
            key.unlink()

    return provide_as("bare", SSH, build)


def provide_wheels() -> Path:
    """What the lock asks for on such a box, as files."""

    def build(directory: Path) -> None:
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", PYTHON),
            *(f"--platform={platform}_{os.uname().machine}" for platform in PLATFORMS),
            *("--dest", str(directory), "-r", str(LOCK)),
        )

    return kept("wheels", (LOCK.read_text(),), build)


@dataclass
class Controller:
    """Runs the playbook of `checkout` in the network `net`, as a person would from a desk."""

    net: Net
    box: Box
    gateway: Box
    directory: Path
    variables: dict[str, Any]
    checkout: Path = ROOT
    key_file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.key_file = self.directory / "qwen-appliance.key"

    @property
    def key(self) -> str:
        """The API key that provisioning made."""
        return self.key_file.read_text().strip()

    def provision(
        self, *options: str, variables: Mapping[str, Any] | None = None, gateways: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run the playbook, with the gateway or without; whatever comes of it is returned."""
        command = ansible_playbook()
        assert command is not None
        inventory = self.directory / "inventory.yml"
        inventory.write_text(yaml.safe_dump(self._inventory(gateways)))
        overrides = ["-e", json.dumps(dict(variables))] if variables else []
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "tests/box/connection_plugins"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        }
        playbook = self.checkout / "provisioning" / "playbook.yml"
        return subprocess.run(
            self.net.command(command, "-i", str(inventory), str(playbook), *overrides, *options),
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def _inventory(self, gateways: bool) -> dict[str, Any]:
        ssh = [
            *("-F", "/dev/null", "-i", str(self.directory / "id")),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", f"ControlPath={self.directory}/cp", "-o", "ControlMaster=auto"),
            *("-o", "ControlPersist=60s"),
        ]
        gateway = {
            "ansible_connection": "nsbox",
            "ansible_user": "root",
            "ansible_nsbox_leader": self.gateway.leader,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        return {
            "gateways": {"hosts": {GATEWAY: gateway} if gateways else {}},
            "boxes": {
                "hosts": {NAME: {"ansible_host": self.box.address}},
                "vars": {
                    "ansible_user": "root",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "ansible_ssh_common_args": " ".join(ssh),
                    **self.variables,
                },
            },
        }

    def close(self) -> None:
        """End the connection that ssh keeps for the next command."""
        run_anyway = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={self.directory}/cp"]
        subprocess.run(
            [*run_anyway, "-O", "exit", self.box.address], capture_output=True, check=False
        )


@contextmanager
def controller(model_dir: Path, cpus: Path, directory: Path) -> Iterator[Controller]:
    """A bare box and a bare gateway that are up, and a controller that may log in.

    The test is skipped where Ansible or ssh is missing.
    """
    if ansible_playbook() is None:
        pytest.skip("no ansible-playbook: ./tests/run.sh makes .venv-provision")
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh (apt-get install openssh-client)")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "id"))

    def fill(root: Path) -> None:
        (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(directory / "id.pub", root / "root/.ssh/authorized_keys")
        in_image(root, "ssh-keygen", "-q", "-A")

    def fill_gateway(root: Path) -> None:
        os.utime(root / "var/lib/apt/lists")  # to apt they are of today

    variables = {
        "qwen_appliance_host": "0.0.0.0",
        "qwen_appliance_model_dir": str(model_dir),
        "qwen_appliance_wheels": str(provide_wheels()),
        "qwen_appliance_config": {"engine": {"max_model_len": 1024}},
        "qwen_appliance_tune_profile": TUNE_PROFILE,
        "qwen_appliance_tune_engine_s": 1,
    }
    with ExitStack() as stack:
        net = stack.enter_context(Net("prov"))
        box = stack.enter_context(
            Box(provide_bare(), directory, NAME, fill=fill, fake=cpus, net=net)
        )
        gateway = stack.enter_context(
            Box(provide_gateway(), directory, GATEWAY, fill=fill_gateway, net=net)
        )
        made = Controller(net, box, gateway, directory, variables)
        stack.callback(made.close)
        yield made


def copy_checkout(to: Path) -> Path:
    """What a controller needs of a checkout, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    to.mkdir()
    for name in CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=ignored)
        else:
            shutil.copy(source, to / name)
    return to


def tree(box: Box) -> list[str]:
    """Every file, directory and link of the box that is no process's and no kernel's."""
    ended = box.run(
        *("find", "/", "-xdev", "-path", "/var/log", "-prune", "-o"),
        *("-path", "/tmp", "-prune", "-o", "-printf", "%p %y %m %u %l\\n"),
    )
    return sorted(ended.stdout.splitlines())
