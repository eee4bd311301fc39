"""Clients that take too long: half a request, half a body, an answer that is not read."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config import Config, EngineConfig, GenerationConfig, ServerConfig
from tests.fakes import FakeRunner
from tests.server import CHAT, Served, chat_body, raw_request, wait_until

# Far enough apart, and from nothing, for a machine that is busy with other things.
HEADER_S, IDLE_S = 0.5, 1.5
LENGTH = 100_000


@pytest.fixture
def served(tiny_model_dir: Path) -> Iterator[Served]:
    config = Config(server=ServerConfig(header_timeout_s=HEADER_S, idle_timeout_s=IDLE_S))
    with Served(tiny_model_dir, config=config) as served:
        served.answer("hello")
        yield served


def seconds_until_closed(connection: socket.socket) -> float:
    """How long it takes until the other side closes, with nothing more to read before."""
    connection.settimeout(20)
    started = time.monotonic()
    try:
        assert connection.recv(1) == b""
    except ConnectionResetError:
        pass
    return time.monotonic() - started


def read_answer(connection: socket.socket) -> bytes:
    """One whole answer that has a length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


def test_a_client_that_sends_nothing(served: Served) -> None:
    with socket.create_connection(served.address) as connection:
        assert HEADER_S * 0.8 < seconds_until_closed(connection) < HEADER_S + 2


@pytest.mark.parametrize("sent", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n"])
def test_headers_that_never_end(served: Served, sent: bytes) -> None:
    """Each byte alone must not buy more time."""
    with socket.create_connection(served.address) as connection:
        started = time.monotonic()
        try:
            for byte in sent.ljust(300, b"x"):
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            pass
        assert HEADER_S * 0.8 < time.monotonic() - started < HEADER_S + 2


def test_a_body_that_stands_still(served: Served) -> None:
    with socket.create_connection(served.address) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        assert IDLE_S * 0.8 < seconds_until_closed(connection) < IDLE_S + 2
    served.check_no_leak()


def test_a_slow_body_is_waited_for(served: Served) -> None:
    body = json.dumps(chat_body()).encode()
    with socket.create_connection(served.address, timeout=20) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode())
        for start in range(0, len(body), 20):
            time.sleep(IDLE_S / 3)
            connection.sendall(body[start : start + 20])
        assert b"hello" in read_answer(connection)


@pytest.mark.parametrize("sent_then", [b"", b"\r\n"])
def test_a_connection_between_requests(served: Served, sent_then: bytes) -> None:
    with socket.create_connection(served.address, timeout=20) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"live" in read_answer(connection)
            time.sleep(HEADER_S + 0.05)  # idle, not late
        connection.sendall(sent_then)
        assert seconds_until_closed(connection) < IDLE_S + 2


def test_a_body_whose_rest_comes_after_the_answer(served: Served) -> None:
    """413 is answered at once; what still comes must not leave the connection open for ever."""
    with socket.create_connection(served.address, timeout=20) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        assert b"not_found" in read_answer(connection)
        connection.sendall(b"cd")
        assert seconds_until_closed(connection) < IDLE_S + 2


def test_an_answer_may_take_longer_than_any_of_that(served: Served) -> None:
    served.runner.gate.clear()
    with raw_request(served.address, CHAT, chat_body()) as connection:
        wait_until(lambda: served.num_open == 1)
        time.sleep(HEADER_S + IDLE_S)
        served.runner.gate.set()
        assert b"hello" in read_answer(connection)


def test_an_answer_that_nobody_reads(tiny_model_dir: Path) -> None:
    """What the sockets can hold is computed, no more; then the client is taken for gone."""
    config = Config(
        server=ServerConfig(idle_timeout_s=IDLE_S),
        engine=EngineConfig(prompt_lookup=False),
        generation=GenerationConfig(max_tokens_ceiling=LENGTH),
    )
    runner = FakeRunner(lambda token_ids: ord("x"), max_model_len=2 * LENGTH)
    with Served(tiny_model_dir, runner, config) as served:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(served.address)
            body = json.dumps(chat_body(stream=True, max_tokens=LENGTH)).encode()
            served.in_loop(lambda: shrink_send_buffers(served))
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_until(lambda: served.num_open == 1)
            wait_until(lambda: served.num_open == 0, timeout_s=20)
            wait_until(lambda: not served.connections, timeout_s=IDLE_S + 5)
        num_computed = sum(len(chunk.token_ids) for step in runner.passes for chunk in step)
        assert 100 < num_computed < LENGTH


def shrink_send_buffers(served: Served) -> None:
    for connection in served.connections:
        peer = connection.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
