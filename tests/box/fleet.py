"""Three provisioned boxes behind a fourth that the role made a gateway, all in one network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from appliance.model_dir import MANIFEST
from tests.box.box import Box
from tests.box.fleet_client import Reply
from tests.box.image import ROOT
from tests.box.installed import SERVICE, wait_until
from tests.box.net import Net

NAMES = ("box-1", "box-2", "box-3")
GATEWAY = "gateway-1"
PORT = 8000
SEATS = 4
COMMAND = "/usr/local/sbin/qwen-appliance-gateway"
CONFIG = {"engine": {"max_model_len": 1024, "max_num_seqs": SEATS}}


def ansible_playbook() -> str | None:
    """The command, from the venv that `tests/run.sh` makes, or from elsewhere."""
    path = f"{ROOT / '.venv-provision' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return shutil.which("ansible-playbook", path=path)


class Fleet:
    """Boxes that serve, and a gateway before the role has run on it.

    `variables` are those that the boxes were provisioned with, `key_file` what came of them.
    """

    def __init__(
        self,
        net: Net,
        boxes: dict[str, Box],
        gateway: Box,
        directory: Path,
        variables: dict[str, Any],
        key_file: Path,
    ) -> None:
        self.net, self.boxes, self.gateway = net, boxes, gateway
        self.url = f"http://{gateway.address}:{PORT}"
        self._key = key_file.read_text().strip()
        self._directory = directory
        self._variables = {**variables, "qwen_appliance_key_file": str(key_file)}
        for box in boxes.values():
            wait_until(partial(_serves, box), "active")
        self.first_run = ""
        model_dir = Path(variables["qwen_appliance_model_dir"])
        self.model = json.loads((model_dir / MANIFEST).read_text())["name"]

    def pids(self) -> dict[str, str]:
        """Of each box's service."""
        return {name: box.property(SERVICE, "MainPID") for name, box in self.boxes.items()}

    # Ansible

    def play(self, tasks: Sequence[dict[str, Any]], *options: str, hosts: str = "gateways") -> str:
        """Run a play of these tasks; returns what Ansible said. It must succeed."""
        ended = self.try_play(tasks, *options, hosts=hosts)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def try_play(
        self, tasks: Sequence[dict[str, Any]], *options: str, hosts: str = "gateways"
    ) -> subprocess.CompletedProcess[str]:
        playbook = self._directory / "play.yml"
        play = {"hosts": hosts, "gather_facts": False, "tasks": list(tasks)}
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        return self._run(playbook, *options)

    def provision(self, checkout: Path, *options: str) -> str:
        """Run the playbook of a checkout on boxes and gateway; returns what Ansible said."""
        ended = self._run(checkout / "provisioning" / "playbook.yml", *options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def _run(self, playbook: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = ansible_playbook()
        assert command is not None
        inventory = self._directory / "inventory.yml"
        inventory.write_text(yaml.safe_dump(self._inventory()))
        environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self._directory / "ansible"),
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "tests/box/connection_plugins"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "provisioning/roles"),
            "ANSIBLE_PIPELINING": "1",
        }
        return subprocess.run(
            [command, "-i", str(inventory), str(playbook), *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def _inventory(self) -> dict[str, Any]:
        def entry(box: Box) -> dict[str, Any]:
            return {"ansible_nsbox_leader": box.leader, "qwen_appliance_address": box.address}

        return {
            "all": {
                "vars": {
                    "ansible_connection": "nsbox",
                    "ansible_user": "root",
                    "ansible_python_interpreter": "/usr/bin/python3",
                },
                "children": {
                    "boxes": {
                        "hosts": {name: entry(box) for name, box in self.boxes.items()},
                        "vars": self._variables,
                    },
                    "gateways": {"hosts": {GATEWAY: entry(self.gateway)}},
                },
            }
        }

    # HAProxy

    def status(self) -> dict[str, str]:
        """What the gateway's command says of each box's state."""
        lines = self.gateway.run(COMMAND, "status").stdout.splitlines()[1:]
        return {line.split()[0]: line[25:40].strip() for line in lines}

    def wait_for(self, name: str, state: str, timeout_s: float = 60.0) -> None:
        wait_until(lambda: self.status()[name].startswith(state), f"{name} {state}", timeout_s)

    # Clients

    def chat(self, *turns: str, **options: Any) -> dict[str, Any]:
        """The body of a request; the turns are the user's and the assistant's by turns."""
        messages = [
            {"role": "assistant" if number % 2 else "user", "content": text}
            for number, text in enumerate(turns)
        ]
        return {"model": self.model, "messages": messages, "temperature": 0} | options

    @contextmanager
    def clients(
        self, bodies: Sequence[dict[str, Any]], concurrency: int, until: Path | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Clients at work; their replies are lines of `stdout`."""
        arguments = [self.url, self._key, str(concurrency), *([str(until)] if until else [])]
        program = [sys.executable, str(ROOT / "tests/box/fleet_client.py"), *arguments]
        requests = self._directory / "requests"
        requests.write_text("".join(json.dumps(body) + "\n" for body in bodies))
        with requests.open() as given:
            process = subprocess.Popen(
                self.net.command(*program), stdin=given, stdout=subprocess.PIPE, text=True
            )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def ask(self, *bodies: dict[str, Any], concurrency: int = 1) -> list[Reply]:
        """The replies, in the order of the requests."""
        with self.clients(bodies, concurrency) as process:
            replies = replies_of(process)
        return sorted(replies, key=lambda reply: reply.number)


def replies_of(process: subprocess.Popen[str]) -> list[Reply]:
    """All that come from now on."""
    assert process.stdout is not None
    return [Reply(**json.loads(line)) for line in process.stdout]


def _serves(box: Box) -> bool:
    return box.property(SERVICE, "ActiveState") == "active"


@contextmanager
def fleet(
    box_image: Path,
    gateway_image: Path,
    cpus: Path,
    directory: Path,
    variables: dict[str, Any],
    key_file: Path,
) -> Iterator[Fleet]:
    """`box_image` is of a box that was provisioned with these variables."""

    def fill_gateway(root: Path) -> None:
        os.utime(root / "var/lib/apt/lists")  # to apt they are of today

    with ExitStack() as stack:
        net = stack.enter_context(Net("fleet"))
        boxes = {name: Box(box_image, directory, name, fake=cpus, net=net) for name in NAMES}
        gateway = Box(gateway_image, directory, GATEWAY, fill=fill_gateway, net=net)
        for box in (*boxes.values(), gateway):
            stack.enter_context(box)
        yield Fleet(net, boxes, gateway, directory, variables, key_file)
