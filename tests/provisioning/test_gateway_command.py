"""The gateway's command, against a socket that answers as HAProxy does."""

from __future__ import annotations

import importlib.util
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "provisioning/roles/gateway/files/gateway.py"


def load() -> ModuleType:
    """It is no module of a package: on a gateway it is a command with another name."""
    spec = importlib.util.spec_from_file_location("gateway_command", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


gateway = load()


class FakeHAProxy:
    """Two boxes; `running` counts down with each look. One command for each connection."""

    def __init__(self, path: Path, ready_port: int) -> None:
        self.states = {"box-1": "UP", "box-2": "DOWN"}
        self.running = {"box-1": 2, "box-2": 0}
        self.told: list[str] = []
        self._ready_port = ready_port
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(fake.answer(self.rfile.readline().decode().strip()).encode())

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, command: str) -> str:
        self.told.append(command)
        if command == "show stat":
            return self._stat()
        if command.startswith("show servers state"):
            lines = [
                f"3 generate {number} {name} 127.0.0.1 2 {int(state == 'MAINT')} 100 100 1 6 3 4 6 "
                f"0 0 0 - {self._ready_port} -"
                for number, (name, state) in enumerate(self.states.items(), start=1)
            ]
            header = (
                "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight "
                "srv_iweight srv_time_since_last_change srv_check_status srv_check_result "
                "srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id "
                "srv_fqdn srv_port srvrecord"
            )
            return "\n".join(["1", header, *lines, "", ""])
        _, _, server, _, state = command.split()
        name = server.removeprefix("generate/")
        if name not in self.states:
            return "No such server.\n\n"
        self.states[name] = {"maint": "MAINT", "ready": "UP"}[state]
        return "\n"

    def _stat(self) -> str:
        rows = ["# pxname,svname,qcur,scur,status,weight,", "clients,FRONTEND,,1,OPEN,,"]
        for backend in ("generate", "quick"):
            for name, state in self.states.items():
                running = self.running[name] if backend == "generate" else 0
                rows.append(f"{backend},{name},0,{running},{state},100,")
            rows.append(f"{backend},BACKEND,0,0,UP,200,")
        self.running = {name: max(0, count - 1) for name, count in self.running.items()}
        return "\n".join([*rows, "", ""])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Ready(BaseHTTPRequestHandler):
    """A box's `/health/ready`: 503 twice, then 200."""

    asked = 0

    def do_GET(self) -> None:
        Ready.asked += 1
        self.send_response(200 if self.path == "/health/ready" and Ready.asked > 2 else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def box_port() -> Iterator[int]:
    Ready.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def haproxy(tmp_path: Path, box_port: int) -> Iterator[FakeHAProxy]:
    fake = FakeHAProxy(tmp_path / "socket", box_port)
    yield fake
    fake.close()


def run(tmp_path: Path, *arguments: str) -> int:
    places = ["--socket", str(tmp_path / "socket"), "--state-file", str(tmp_path / "state")]
    code: int = gateway.main([*places, *arguments])
    return code


def test_status_lists_boxes(
    haproxy: FakeHAProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "status") == 0
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["box", "state", "weight", "running", "waiting"]
    assert rows == [["box-1", "UP", "100", "2", "0"], ["box-2", "DOWN", "100", "0", "0"]]


def test_drain_waits_for_answers_and_is_remembered(haproxy: FakeHAProxy, tmp_path: Path) -> None:
    assert run(tmp_path, "drain", "box-1", "--wait", "10") == 0
    assert haproxy.states == {"box-1": "MAINT", "box-2": "DOWN"}
    assert haproxy.told.count("show stat") == 3  # is there such a box; one runs; none runs
    version, header, *drained = (tmp_path / "state").read_text().splitlines()
    assert version == "1" and header.startswith("# be_id")
    assert [line.split()[3] for line in drained] == ["box-1"]


def test_drain_that_waited_long_enough_says_what_runs(
    haproxy: FakeHAProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    haproxy.running["box-1"] = 1000
    assert run(tmp_path, "drain", "box-1", "--wait", "0") == 5
    assert "requests still run there" in capsys.readouterr().err
    assert haproxy.states["box-1"] == "MAINT"
    assert (tmp_path / "state").exists()


def test_enable_asks_the_box_first(haproxy: FakeHAProxy, tmp_path: Path) -> None:
    haproxy.states["box-2"] = "MAINT"
    assert run(tmp_path, "enable", "box-2", "--wait", "0") == 6
    assert haproxy.states["box-2"] == "MAINT"
    assert run(tmp_path, "enable", "box-2", "--wait", "10") == 0
    assert haproxy.states["box-2"] == "UP"
    assert Ready.asked == 3


def test_a_box_that_nobody_knows(
    haproxy: FakeHAProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("drain", "enable"):
        assert run(tmp_path, verb, "box-9") == 3
    assert "no box box-9 here; there are: box-1, box-2" in capsys.readouterr().err


def test_no_haproxy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("status",), ("drain", "box-1"), ("enable", "box-1")):
        assert run(tmp_path, *arguments) == 4
    assert str(tmp_path / "socket") in capsys.readouterr().err
