"""`qwen-appliance health`: what it says of each state of the service, and ends with."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from appliance.cli import main

Capture = pytest.CaptureFixture[str]
Answer = Callable[[str, int, bytes], int]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Starts a server that answers always the same; returns its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(host: str, status: int, body: bytes) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/health/ready"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer((host, 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def health(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["health", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0"])
def test_ready(capsys: Capture, answer: Answer, listens_on: str) -> None:
    port = answer("127.0.0.1", 200, b'{"status":"ready"}')
    arguments = ["--host", listens_on, "--port", str(port)]
    assert health(capsys, *arguments) == (0, "ready\n", "")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, b'{"status":"loading"}', "the service is loading"),
        (503, b'{"status":"draining"}', "the service is draining"),
        (503, b"busy", "another program listens there: answers /health/ready with 503"),
        (200, b"[]", "another program listens there: answers /health/ready with 200"),
    ],
)
def test_not_ready(capsys: Capture, answer: Answer, status: int, body: bytes, reason: str) -> None:
    port = answer("127.0.0.1", status, body)
    code, out, said = health(capsys, "--port", str(port))
    assert (code, out) == (4, "") and said.count("\n") == 1
    assert said.startswith(f"qwen-appliance: 127.0.0.1:{port}: {reason}")


def test_nobody_there(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # The service's own variable, as in a container.
    monkeypatch.setenv("QWEN_APPLIANCE_SERVER_PORT", str(port))
    code, _, said = health(capsys)
    assert code == 4
    assert f"127.0.0.1:{port}: nobody listens there: Connection refused" in said


def test_something_that_is_no_http(capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 smtp\r\n")

        talker = threading.Thread(target=talk)
        talker.start()
        code, _, said = health(capsys, "--port", str(listener.getsockname()[1]))
        talker.join()
    assert code == 4
    assert "another program listens there" in said and said.count("\n") == 1


def test_it_needs_little() -> None:
    """It runs every few seconds, beside a service that wants the CPU."""
    script = "import sys, appliance.health_check; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not {"litestar", "httpx", "openvino", "numpy"} & {*ended.stdout.split()}
