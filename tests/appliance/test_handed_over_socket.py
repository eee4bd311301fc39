"""Whose socket the service listens on: its own, or the supervisor's."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config import ServerConfig
from appliance.listener import listen

# A program that gives itself the environment of sd_listen_fds(3), which names the process, and then
# does what `serve` does.
PROGRAM = """
import os, sys
from appliance.config import ServerConfig
from appliance.errors import ApplianceError
from appliance.listener import listen
env = {"LISTEN_FDS": sys.argv[1], "LISTEN_PID": sys.argv[2] or str(os.getpid())}
try:
    config = ServerConfig(port=0, allow_no_key=sys.argv[3] == "open")
    with listen(config, env) as listener:
        print(*listener.getsockname()[:2], listener.fileno() == 3, os.get_inheritable(3))
except ApplianceError as error:
    print(error)
"""


@pytest.fixture
def handed_over() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def run(fd: int, number: str = "1", pid: str = "", door: str = "closed") -> str:
    """What the program prints when it gets `fd` as its descriptor 3."""
    script = 'exec 3<&"$1" "$2" -c "$3" "$4" "$5" "$6"'
    finished = subprocess.run(
        ["bash", "-c", script, "bash", str(fd), sys.executable, PROGRAM, number, pid, door],
        pass_fds=[fd],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stderr == ""
    return finished.stdout.strip()


def test_a_socket_that_is_handed_over_is_used(handed_over: socket.socket) -> None:
    host, port = handed_over.getsockname()
    assert run(handed_over.fileno()) == f"{host} {port} True False"


def test_one_that_is_meant_for_another_process_is_not(handed_over: socket.socket) -> None:
    port = handed_over.getsockname()[1]
    host, own_port, is_it, _ = run(handed_over.fileno(), pid="1").split()
    assert (host, is_it) == ("127.0.0.1", "False") and int(own_port) != port


def test_two_are_one_too_many(handed_over: socket.socket) -> None:
    told = run(handed_over.fileno(), "2")
    assert "LISTEN_FDS = '2'" in told and "expected one listening TCP socket" in told


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_another_kind_of_socket_is_refused(family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as not_listening:
        assert "expected one listening TCP socket" in run(not_listening.fileno())


def test_one_that_others_can_reach_needs_a_key() -> None:
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:
        told = run(open_to_all.fileno())
        assert "LISTEN_FDS = '0.0.0.0'" in told and "key add" in told
        assert run(open_to_all.fileno(), door="open").startswith("0.0.0.0 ")


def test_without_one_the_configured_address_is_taken() -> None:
    with listen(ServerConfig(port=0), {}) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1" and port > 0
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
