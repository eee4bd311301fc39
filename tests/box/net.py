"""A network for several boxes: a bridge in a namespace of its own, nothing in the host's."""

from __future__ import annotations

import os
from types import TracebackType

from tests.box.box import host

PREFIX = "10.77.0"
_FIRST = 11


class Net:
    """A context manager; who wants to speak with a box runs `command(...)`, at `PREFIX`.1."""

    def __init__(self, name: str) -> None:
        self.name = f"qa-{name}-{os.getpid()}"
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Net:
        host("ip", "netns", "add", self.name)
        for command in (
            "link set lo up",
            "link add bridge type bridge",
            f"addr add {PREFIX}.1/24 dev bridge",
            "link set bridge up",
        ):
            host("ip", "-n", self.name, *command.split())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        host("ip", "netns", "del", self.name, check=False)

    def attach(self, namespace: str) -> str:
        """A cable from the bridge to a network namespace; returns the address at that end."""
        number = _FIRST + len(self._addresses)
        address = self._addresses[namespace] = f"{PREFIX}.{number}"
        peer = ("peer", "name", "eth0", "netns", namespace)
        host("ip", "-n", self.name, "link", "add", f"box{number}", "type", "veth", *peer)
        host("ip", "-n", self.name, "link", "set", f"box{number}", "master", "bridge", "up")
        host("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        host("ip", "-n", namespace, "link", "set", "eth0", "up")
        return address

    def cable(self, namespace: str, state: str) -> None:
        """Pull it (`down`): nothing gets out of the box any more, no farewell either; or `up`."""
        number = self._addresses[namespace].rpartition(".")[2]
        host("ip", "-n", self.name, "link", "set", f"box{number}", state)

    def command(self, *command: str) -> list[str]:
        """`command`, run at the bridge."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]
