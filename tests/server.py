"""The whole application on a fake backend, behind a real HTTP server on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import uvicorn

from appliance.app import Appliance
from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.serve import uvicorn_config
from tests.fakes import FakeKVCache, FakeRunner, fake_backend, scripted
from tests.tiny_model import IM_END, PROMPT_END
from tests.told_answers import told

# For what must come; long enough for a machine that is busy with other things.
TIMEOUT_S = 30.0
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"


class Served:
    """A context manager: an appliance that serves on `url` while the block runs.

    `runner` does the forward passes and may be changed while nothing runs. When the block was left
    and the engine had not died, every sequence is finished and every slot free, or the test fails.
    """

    def __init__(
        self,
        model_dir: Path,
        runner: FakeRunner | None = None,
        config: Config | None = None,
        *,
        wait: bool = True,
    ) -> None:
        self.runner = runner or FakeRunner()
        self._wait = wait
        config = config or Config()
        config = replace(config, model=replace(config.model, dir=model_dir))
        backend = fake_backend(self.runner)
        assert isinstance(backend.kv, FakeKVCache)
        self.kv = backend.kv
        self.appliance = Appliance(config, backend)
        self.service = self.appliance.service
        self.ready_line = ""
        self.failures: list[ApplianceError] = []
        self.ready = threading.Event()
        self.appliance.on_ready = self._on_ready
        self.appliance.on_failure = self.failures.append
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._server = _Server(uvicorn_config(self.appliance, config))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="server"
        )

    def __enter__(self) -> Served:
        self._thread.start()
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=TIMEOUT_S)
        assert self._server.up.wait(TIMEOUT_S)
        assert not self._wait or self.ready.wait(TIMEOUT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()
        self.runner.gate.set()
        self.in_loop(self._server.stopping.set)
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._listener.close()
        engine = self.appliance._engine
        if error is None and engine is not None and engine.death is None:
            assert self.num_open == 0 and not self.kv.used
            assert self.runner.closed

    def in_loop(self, call: Callable[[], object]) -> None:
        """Run `call` on the service's event loop and wait for it."""
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        self._server.loop.call_soon_threadsafe(run)
        assert done.wait(TIMEOUT_S)

    def answer(self, text: str | bytes, behind: Sequence[int] = PROMPT_END) -> None:
        """From now on the model answers `text`, one token per byte, and ends."""
        encoded = text.encode() if isinstance(text, str) else text
        self.runner.next_token = scripted((*encoded, IM_END), behind)

    def answer_by(self, *rules: tuple[str, str]) -> None:
        """From now on the model answers the text of the first rule whose first text it was sent."""
        self.runner.next_token = told(rules, PROMPT_END, IM_END)

    def answer_forever(self, character: str = "x", behind: Sequence[int] = PROMPT_END) -> None:
        """From now on the model answers one character and never ends."""
        self.runner.next_token = scripted(character.encode(), behind)

    def chat(self, content: Any = "hi", **fields: Any) -> httpx.Response:
        return self.client.post(CHAT, json=chat_body(content, **fields))

    def complete(self, prompt: Any = "hi", **fields: Any) -> httpx.Response:
        return self.client.post(COMPLETIONS, json={"model": "tiny", "prompt": prompt, **fields})

    def respond(self, given: Any = "hi", **fields: Any) -> httpx.Response:
        return self.client.post(RESPONSES, json={"model": "tiny", "input": given, **fields})

    @property
    def connections(self) -> set[Any]:
        """Uvicorn's open connections."""
        return self._server.server_state.connections

    @property
    def num_open(self) -> int:
        """Sequences submitted and not finished."""
        engine = self.appliance._engine
        return engine.num_open if engine else 0

    def check_no_leak(self) -> None:
        """Every sequence finished and every slot free, soon: an abort takes a step."""
        wait_until(lambda: self.num_open == 0 and not self.kv.used)
        self.kv.check_integrity()

    def reset(self) -> None:
        """As new, for the next test: no prefix known, the default model, no pass recorded."""
        self.check_no_leak()
        for row in self.kv.rows:
            row.clear()
        self.runner.step_s = 0.0
        self.runner.passes.clear()
        self.client.cookies.clear()

    def _on_ready(self, text: str) -> None:
        self.ready_line = text
        self.ready.set()


class _Server(uvicorn.Server):
    """Uvicorn in a thread, that ends at once when told to; uvicorn's own way takes 0.3 s."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def main_loop(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.up.set()
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.002)
        await self.lifespan.shutdown()


def chat_body(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    """A body of `POST /v1/chat/completions` with one message of a user."""
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def events(response: httpx.Response) -> list[Any]:
    """The JSON of every event of a whole stream; `[DONE]` at the end is demanded and left out."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, done, rest = response.content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    for part in parts:
        assert part.startswith(b"data: {") and b"\n" not in part
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


def named_events(response: httpx.Response) -> list[Any]:
    """The JSON of every event of a response's stream, each under the name that is in it."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, rest = response.content.split(b"\n\n")
    assert rest == b""
    found = []
    for part in parts:
        name, data = part.split(b"\n")
        found.append(json.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait for something that another thread does; fails when it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@contextlib.contextmanager
def raw_request(address: tuple[str, int], path: str, body: Any) -> Iterator[socket.socket]:
    """A connection on which a POST was sent and nothing was read."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode() + data)
        yield connection
