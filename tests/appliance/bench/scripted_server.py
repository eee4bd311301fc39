"""A small real HTTP server that streams chats with scripted timings and failures.

It runs on a loop and thread of its own, keeps connections, has a prefix cache (the longest shared
beginning with any prompt it has seen), and remembers what it was sent.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

FIXED_TOKENS = 20
TOKENS_PER_WORD = 2


@dataclass
class Script:
    """How the server behaves. `failures` maps the number of a chat request to what goes wrong."""

    first_token_s: float = 0.01
    cached_first_token_s: float = 0.005
    gap_s: float = 0.002
    num_tokens: int = 8
    tokens_per_chunk: int = 1
    role_chunk: bool = True
    tells_usage: bool = True
    refuses_stream_options: int | None = None
    models: tuple[str, ...] = ("scripted",)
    failures: dict[int, str] = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """What the server did. `chats` holds request bodies, `headers` the headers of each."""

    script: Script
    port: int = 0
    num_connections: int = 0
    chats: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _running: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.num_connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._serve_request(reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection may be used again."""
        request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if request_line.startswith("GET"):
            listed = {"object": "list", "data": [{"id": name} for name in self.script.models]}
            _answer(writer, 200, listed)
            return True
        chat = json.loads(body)
        self.headers.append(headers)
        if "stream_options" in chat and self.script.refuses_stream_options:
            _answer(writer, self.script.refuses_stream_options, {"detail": "stream_options?"})
            return True
        number = len(self.chats)
        self.chats.append(chat)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            return await self._stream(chat, self.script.failures.get(number), writer)
        finally:
            self._running -= 1

    async def _stream(
        self, chat: dict[str, Any], failure: str | None, writer: asyncio.StreamWriter
    ) -> bool:
        if failure == "429":
            _answer(writer, 429, {"error": {"message": "too many\nrequests", "code": "x"}})
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        async for data in self._events(chat, failure):
            if data == "DIE":
                return False
            event = f"data: {data}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True

    async def _events(self, chat: dict[str, Any], failure: str | None) -> AsyncIterator[str]:
        script = self.script
        prompt = "".join(f"<{m['role']}>{m['content']}" for m in chat["messages"])
        shared = max((shared_length(prompt, seen) for seen in self.prompts), default=0)
        self.prompts.append(prompt)
        if script.role_chunk:
            yield _delta(role="assistant", content="")
        await asyncio.sleep(
            script.cached_first_token_s if shared > len(prompt) // 2 else script.first_token_s
        )
        num_tokens = min(script.num_tokens, chat["max_tokens"])
        if failure != "empty":
            for sent in range(0, num_tokens, script.tokens_per_chunk):
                if sent:
                    await asyncio.sleep(script.gap_s)
                if sent and failure == "die":
                    yield "DIE"
                if sent and failure == "error":
                    yield json.dumps({"error": {"message": "out of memory"}})
                    return
                if sent and failure == "stop":
                    return
                yield _delta(content="词 " * min(script.tokens_per_chunk, num_tokens - sent))
        yield json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        if script.tells_usage and chat.get("stream_options"):
            yield json.dumps({"choices": [], "usage": _usage(prompt, shared, num_tokens)})
        yield "[DONE]"


def slowed(measured: float, scripted: float) -> bool:
    """Whether `measured` can be what `scripted` became on a busy machine: longer, never shorter.

    The twentieth below is for a first chunk that was late; it is less than one token in ten.
    """
    return scripted * 0.95 <= measured <= scripted * 2


def shared_length(one: str, two: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(two)))


def _usage(prompt: str, num_shared: int, num_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": FIXED_TOKENS + TOKENS_PER_WORD * len(prompt.split()),
        "completion_tokens": num_tokens,
        "prompt_tokens_details": {"cached_tokens": num_shared},
    }


def _delta(**delta: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def _answer(writer: asyncio.StreamWriter, status: int, body: object) -> None:
    data = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))


@contextmanager
def scripted(script: Script | None = None) -> Iterator[ScriptedServer]:
    """A running server; everything it started has ended when the block is left."""
    server = ScriptedServer(script or Script())
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        listener = await asyncio.start_server(server.serve_connection, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listener.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
