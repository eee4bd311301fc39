"""Any server with OpenAI's /v1/completions: http_worker.py --port N --rows N -- COMMAND...

Starts the server, waits until it is ready, and measures it through HTTP, on this machine: prompts
are token ids, answers streams. Runs in the bench's own venv, the server in whatever its command
says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

from worker_protocol import Channel, Clock, Verb, answer, closed_loop, memory, run

_READY_TIMEOUT_S = 300.0
_ANSWER_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 30.0
_WATCH_EVERY_S = 0.05


class Served:
    """One server process and the connections to it."""

    def __init__(self, command: list[str], base_url: str, ready_path: str) -> None:
        import httpx

        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
        self._loop = asyncio.new_event_loop()
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=_ANSWER_TIMEOUT_S, trust_env=False
        )
        try:
            self._loop.run_until_complete(self._wait_until_ready(ready_path))
        except BaseException:
            self.close()
            raise

    async def _wait_until_ready(self, path: str) -> None:
        import httpx

        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"the server ended with exit status {status}")
            try:
                if (await self._http.get(path)).is_success:
                    listed = (await self._http.get("/v1/models")).json()["data"]
                    self._model = listed[0]["id"]
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
        raise RuntimeError(f"the server was not ready after {_READY_TIMEOUT_S:g} s")

    def generate(self, **request: Any) -> dict[str, Any]:
        """One request, alone."""
        return self._loop.run_until_complete(self._answer(Clock(), **request))

    def generate_many(self, requests: list[dict[str, Any]], clients: int) -> list[dict[str, Any]]:
        """C clients take the requests in order."""
        return self._loop.run_until_complete(closed_loop(self._answer, requests, clients))

    def watched(self, requests: list[dict[str, Any]], clients: int) -> dict[str, int]:
        """As `generate_many`, but what is told is the most memory the server had meanwhile."""
        return {"peak_bytes": self._loop.run_until_complete(self._watch(requests, clients))}

    async def _watch(self, requests: list[dict[str, Any]], clients: int) -> int:
        running = asyncio.ensure_future(closed_loop(self._answer, requests, clients))
        peak = 0
        while not running.done():
            peak = max(peak, self.memory()["anonymous_bytes"])
            await asyncio.wait({running}, timeout=_WATCH_EVERY_S)
        await running
        return peak

    def memory(self) -> dict[str, int]:
        """Of the server and the processes it started."""
        pids = [str(self._process.pid), *_children(self._process.pid)]
        return {"anonymous_bytes": sum(memory(pid)["anonymous_bytes"] for pid in pids)}

    def close(self) -> None:
        """SIGTERM, and what does not help against that."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._loop.run_until_complete(self._http.aclose())
        self._loop.close()

    async def _answer(
        self,
        clock: Clock,
        prompt_ids: list[int],
        max_tokens: int,
        ignore_eos: bool,
        abort_after: int | None = None,
    ) -> dict[str, Any]:
        body = {
            "model": self._model,
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        start_ms = clock.ms()
        lines: list[tuple[float, str]] = []
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            if not response.is_success:
                text = (await response.aread()).decode(errors="replace")
                raise RuntimeError(f"HTTP {response.status_code}: {text[:200]}")
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    lines.append((clock.ms(), line))
                if abort_after is not None and len(lines) >= abort_after:
                    break
        return _answer(start_ms, lines)


def _answer(start_ms: float, lines: list[tuple[float, str]]) -> dict[str, Any]:
    """Understood after the stream has ended: this process shares the cores with the server."""
    times_ms: list[float] = []
    usage: dict[str, Any] = {}
    for at_ms, line in lines:
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise RuntimeError(f"error in the stream: {event['error']}")
        usage = event.get("usage") or usage
        if any(choice.get("text") for choice in event["choices"]):
            times_ms.append(at_ms)
    details = usage.get("prompt_tokens_details") or {}
    return answer(
        start_ms,
        times_ms,
        [],
        num_tokens=usage.get("completion_tokens", len(times_ms)),
        num_cached_tokens=details.get("cached_tokens"),
    )


def _children(pid: int) -> list[str]:
    """All descendants; vLLM computes in one of them."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="utf-8").split():
            found += [child, *_children(int(child))]
    return found


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--ready-path", default="/health")
    parser.add_argument("--version-text", required=True)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    served = Served(args.command, f"http://127.0.0.1:{args.port}", args.ready_path)
    verbs: dict[str, Verb] = {
        "generate": served.generate,
        "generate_many": served.generate_many,
        "watched": served.watched,
        "memory": served.memory,
    }
    try:
        channel.serve(verbs, version=args.version_text, max_rows=args.rows)
    finally:
        served.close()


if __name__ == "__main__":
    run(main)
