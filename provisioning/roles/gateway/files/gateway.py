#!/usr/bin/env python3
"""Tells how the boxes behind this gateway are, takes one out, puts it back: by HAProxy's socket."""

from __future__ import annotations

import argparse
import csv
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOCKET = Path("/run/haproxy/admin.sock")
STATE_FILE = Path("/var/lib/haproxy/qwen-appliance-boxes")
# The backend whose servers are drained and checked; the other one's follow them.
BACKEND = "generate"
EVERY_S = 0.2
# In srv_admin_state: drained by hand, and not for another reason.
_FORCED_MAINT = 1
_EPILOG = """exit codes: 0 done; 2 wrong arguments; 3 no such box; 4 HAProxy's socket does not
answer; 5 drained, but answers still run after --wait; 6 not ready after --wait, still drained"""


class GatewayError(Exception):
    """What went wrong, and the exit code that says so."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Box:
    """A box as HAProxy sees it: `state` in HAProxy's words, numbers of requests."""

    name: str
    state: str
    weight: int
    running: int
    waiting: int


class HAProxy:
    """The running HAProxy, by its socket. Raises `GatewayError` where that does not answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, command: str) -> str:
        """What HAProxy says to one command; most say nothing when they are done."""
        told = bytearray()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(self._path))
                connection.sendall(f"{command}\n".encode())
                while part := connection.recv(65536):
                    told += part
        except OSError as error:
            raise GatewayError(4, f"{self._path}: {error.strerror or error}") from error
        return told.decode()

    def boxes(self) -> list[Box]:
        """Every box, in the order of the configuration."""
        table = csv.DictReader(self.ask("show stat").lstrip("# ").splitlines())
        rows = [row for row in table if row["svname"] not in ("FRONTEND", "BACKEND")]

        def number(box: str, column: str) -> int:
            return sum(int(row[column] or 0) for row in rows if row["svname"] == box)

        return [
            Box(
                row["svname"],
                row["status"],
                int(row["weight"]),
                number(row["svname"], "scur"),
                number(row["svname"], "qcur"),
            )
            for row in rows
            if row["pxname"] == BACKEND
        ]

    def box(self, name: str) -> Box:
        """One box. Raises `GatewayError` (3) where there is none of that name."""
        boxes = self.boxes()
        for box in boxes:
            if box.name == name:
                return box
        raise GatewayError(3, f"no box {name} here; there are: {', '.join(b.name for b in boxes)}")

    def address(self, name: str) -> tuple[str, int]:
        """Where HAProxy reaches the box, which it knows."""
        _, _, servers = self.servers()
        (server,) = [server for server, _ in servers if server["srv_name"] == name]
        return server["srv_addr"], int(server["srv_port"])

    def servers(self) -> tuple[str, str, list[tuple[dict[str, str], str]]]:
        """HAProxy's state file: its version, its header, and each box's values with their line."""
        version, header, *lines = self.ask(f"show servers state {BACKEND}").splitlines()
        columns = header.lstrip("# ").split()
        values = [(dict(zip(columns, line.split(), strict=False)), line) for line in lines if line]
        return version, header, values

    def set_state(self, name: str, state: str) -> None:
        """`maint` or `ready`; kept in `STATE_FILE` for the HAProxy after this one."""
        refused = self.ask(f"set server {BACKEND}/{name} state {state}").strip()
        if refused:
            raise GatewayError(1, f"HAProxy does not set {name} to {state}: {refused}")


def drain(haproxy: HAProxy, name: str, wait_s: float) -> str:
    """No new requests for the box; returns when the running ones have ended. See `_EPILOG`."""
    # HAProxy's own "drain" still lets in the conversations that stick to the box, which is most of
    # them; "maint" lets in none, and leaves what runs alone.
    haproxy.box(name)
    haproxy.set_state(name, "maint")
    deadline = time.monotonic() + wait_s
    while running := haproxy.box(name).running:
        if time.monotonic() > deadline:
            raise GatewayError(5, f"{name} is drained; {running} requests still run there")
        time.sleep(EVERY_S)
    return f"{name} is drained; nothing runs there"


def enable(haproxy: HAProxy, name: str, wait_s: float) -> str:
    """Requests for the box again, once it says that it is ready. See `_EPILOG`."""
    haproxy.box(name)
    # HAProxy takes a box that comes from "maint" for healthy until a check says otherwise.
    host, port = haproxy.address(name)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/health/ready"
    deadline = time.monotonic() + wait_s
    while wrong := _not_ready(url):
        if time.monotonic() > deadline:
            raise GatewayError(6, f"{name} is not ready, and stays as it was: {url}: {wrong}")
        time.sleep(EVERY_S)
    haproxy.set_state(name, "ready")
    return f"{name} gets requests"


def status(haproxy: HAProxy) -> str:
    """A table of all boxes."""
    row = "{:<24} {:<14} {:>6} {:>7} {:>7}".format
    lines = [row("box", "state", "weight", "running", "waiting")]
    lines += [row(b.name, b.state, b.weight, b.running, b.waiting) for b in haproxy.boxes()]
    return "\n".join(lines)


def keep_state(haproxy: HAProxy, path: Path) -> None:
    """What is drained now is drained in the next HAProxy, too: after a reload, after a boot.

    That one finds out by itself how the others are, and counts on them until it has.
    """
    version, header, servers = haproxy.servers()
    drained = [line for server, line in servers if int(server["srv_admin_state"]) & _FORCED_MAINT]
    new = path.with_name(f"{path.name}.new")
    new.write_text("\n".join([version, header, *drained, ""]))
    os.replace(new, path)


def _not_ready(url: str) -> str:
    """Why the box is not ready; empty when it is."""
    try:
        # The address is HAProxy's own.
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"status {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="qwen-appliance-gateway",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", type=Path, default=SOCKET, help="HAProxy's (%(default)s)")
    parser.add_argument("--state-file", type=Path, default=STATE_FILE, help="(%(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("status", help="how the boxes are")
    for verb, what in (
        ("drain", "send a box nothing new, and wait until its answers have ended"),
        ("enable", "send a box requests again, once it is ready"),
    ):
        of_box = verbs.add_parser(verb, help=what)
        of_box.add_argument("box", metavar="BOX", help="its name in the inventory")
        of_box.add_argument(
            "--wait", type=float, default=120, metavar="S", help="at most (%(default)s)"
        )
    given = parser.parse_args(arguments)
    haproxy = HAProxy(given.socket)
    try:
        if given.verb == "status":
            said = status(haproxy)
        else:
            change = drain if given.verb == "drain" else enable
            try:
                said = change(haproxy, given.box, given.wait)
            finally:
                keep_state(haproxy, given.state_file)
    except GatewayError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
