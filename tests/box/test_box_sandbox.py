"""What the units let the service do, and what not, on a real systemd."""

from __future__ import annotations

import re
import threading

import pytest

from tests.box.box import host
from tests.box.installed import MOUNT, SERVICE, SOCKET, STAGE, TUNE, Installed

# The first one may have to make the image.
pytestmark = [pytest.mark.box, pytest.mark.model, pytest.mark.timeout(900)]

KEYS = "/etc/credstore/qwen-appliance.api-keys"
# Run in the service's place, with all that its unit allows and forbids.
PROBE = """
import os, socket

def attempt(what, call):
    try:
        call()
        print("PROBE", what, "ok", flush=True)
    except OSError as error:
        print("PROBE", what, os.strerror(error.errno), flush=True)

def datagram(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (address, 9))

attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("datagram-home", lambda: datagram("127.0.0.1"))
attempt("datagram-abroad", lambda: datagram("203.0.113.9"))
attempt("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("affinity", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
attempt("setuid", lambda: os.setuid(0))
for place in ("/run/qwen-appliance/model/current/x", "/etc/qwen-appliance/x", "/usr/x",
              "/var/lib/qwen-appliance/models/x", "/sys/kernel/mm/transparent_hugepage/enabled",
              "/var/lib/qwen-appliance/kv/x", "/var/cache/qwen-appliance/x", "/tmp/x"):
    attempt("write " + place, lambda: open(place, "w").close())
attempt("home", lambda: os.listdir("/root"))
print("PROBE others", sum(name.isdigit() for name in os.listdir("/proc")) - 1, flush=True)
"""


def test_the_units_are_in_order(service: Installed) -> None:
    units = (SERVICE, STAGE, TUNE, SOCKET, MOUNT)
    verified = service.box.run(
        "systemd-analyze", "verify", "--recursive-errors=yes", *units, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize(("unit", "most"), [(SERVICE, 1.5), (STAGE, 1.5), (TUNE, 2.0)])
def test_exposure(service: Installed, unit: str, most: float) -> None:
    told = service.box.run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found and float(found[1]) <= most


def test_what_the_sandbox_allows(service: Installed) -> None:
    box = service.box
    # A way out, so that a packet that does not leave was held back and not lost.
    for command in (
        "link add out type veth peer name far",
        "addr add 198.51.100.1/24 dev out",
        "link set out up",
        "link set far up",
        "route add default dev out",
    ):
        host("ip", "-n", box.name, *command.split())
    box.path("/opt/probe.py").write_text(PROBE)
    service.drop_in(
        "Type=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        "ExecStart=/usr/bin/python3 /opt/probe.py"
    )
    try:
        assert service.start() == ""
    finally:
        host("ip", "-n", box.name, "link", "del", "out")
    told = dict(re.findall(r"^PROBE (.+?) ((?:\w|\d)+|[A-Z].*)$", box.journal(SERVICE), re.M))
    denied, read_only = "Operation not permitted", "Read-only file system"
    assert told == {
        "connect": denied,
        "datagram-home": "ok",
        "datagram-abroad": denied,
        "packets": "Address family not supported by protocol",
        "affinity": "ok",
        "setuid": denied,
        "write /run/qwen-appliance/model/current/x": read_only,
        "write /etc/qwen-appliance/x": read_only,
        "write /usr/x": read_only,
        "write /var/lib/qwen-appliance/models/x": read_only,
        "write /sys/kernel/mm/transparent_hugepage/enabled": read_only,
        "write /var/lib/qwen-appliance/kv/x": "ok",
        "write /var/cache/qwen-appliance/x": "ok",
        "write /tmp/x": "ok",
        "home": "Permission denied",
        "others": "0",
    }


def test_openvino_needs_memory_that_is_written_and_executed(service: Installed) -> None:
    """Why `MemoryDenyWriteExecute=` is left out. If this fails, it can be put in."""
    service.drop_in("MemoryDenyWriteExecute=yes\nRestart=no")
    assert service.start() != ""
    assert service.box.property(SERVICE, "ExecMainStatus") == "5"
    assert "OpenVINO cannot compile" in service.box.journal(SERVICE)


def test_api_keys_come_as_a_credential(service: Installed) -> None:
    box = service.box
    box.path("/etc/credstore").mkdir(mode=0o700, exist_ok=True)
    command = "/opt/qwen-appliance/venv/bin/qwen-appliance"
    key = box.run(command, "key", "add", "laptop", "--file", KEYS).stdout.strip()
    try:
        assert box.path(KEYS).stat().st_mode & 0o777 == 0o600
        assert service.start() == ""
        assert service.chat()[0] == 401
        assert service.chat("-H", f"Authorization: Bearer {key}")[0] == 200
    finally:
        box.path(KEYS).unlink()


def test_requests_wait_in_the_socket_while_the_service_restarts(service: Installed) -> None:
    box = service.box
    refused = box.systemctl("start", SOCKET, SERVICE, check=False)
    assert refused != ""  # others could reach it, and there is no key
    assert "LISTEN_FDS" in box.journal(SERVICE) and "key add" in box.journal(SERVICE)
    service.reset()
    service.drop_in("Environment=QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true")
    box.systemctl("start", SOCKET, SERVICE)
    answers: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(service.chat(max_tokens=1, timeout_s=60)[0])

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        before = service.pid()
        box.systemctl("restart", SERVICE)
        assert service.is_serving()
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert service.pid() != before
    assert set(answers) <= {200, 503} and answers.count(200) > 3
