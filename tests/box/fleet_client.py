"""Asks a gateway many things at once, in a network that only other processes can be in.

    python fleet_client.py URL KEY CONCURRENCY [FILE] < requests

One request body per line of JSON; with FILE they come again and again until it is there. Writes one
line of JSON for each answer when it ends: see `Reply`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

TIMEOUT_S = 90.0


@dataclasses.dataclass
class Reply:
    """What became of a request. Times are `time.time()`; `first` is 0 while nothing had come."""

    number: int
    stream: bool
    began: float
    first: float = 0.0
    ended: float = 0.0
    status: int = 0
    box: str = ""
    cached_tokens: int = 0
    text: str = ""
    whole: bool = False
    error: str = ""


def read(reply: Reply, data: dict[str, Any]) -> None:
    """One answer, or one chunk of it."""
    if "error" in data:
        reply.error = data["error"]["code"]
    if data.get("usage"):
        reply.cached_tokens = data["usage"]["prompt_tokens_details"]["cached_tokens"]
    for choice in data.get("choices", ()):
        message = choice.get("delta") or choice.get("message") or {}
        reply.text += message.get("content") or ""
        reply.whole = reply.whole or choice["finish_reason"] is not None


async def ask(client: httpx.AsyncClient, number: int, body: dict[str, Any]) -> Reply:
    reply = Reply(number, bool(body.get("stream")), time.time())
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            reply.first = time.time()
            reply.status = response.status_code
            reply.box = response.headers.get("x-served-by", "")
            if reply.stream and reply.status == 200:
                last = ""
                async for line in response.aiter_lines():
                    last = line or last
                    if line.startswith("data: {"):
                        read(reply, json.loads(line.removeprefix("data: ")))
                reply.whole = reply.whole and last == "data: [DONE]"
            else:
                read(reply, json.loads(await response.aread()))
    except (httpx.HTTPError, ValueError) as error:
        reply.error = f"{type(error).__name__}: {error}"
        reply.whole = False
    reply.ended = time.time()
    return reply


async def main(url: str, key: str, concurrency: int, until: Path | None) -> None:
    bodies = [json.loads(line) for line in sys.stdin]
    again = enumerate(itertools.cycle(bodies) if until else bodies)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=TIMEOUT_S, limits=limits
    ) as client:

        async def work(todo: Iterator[tuple[int, dict[str, Any]]]) -> None:
            for number, body in todo:
                if until is not None and until.exists():
                    return
                reply = await ask(client, number, body)
                print(json.dumps(dataclasses.asdict(reply)), flush=True)  # noqa: T201

        await asyncio.gather(*(work(again) for _ in range(concurrency)))


if __name__ == "__main__":
    _, url, key, concurrency, *file = sys.argv
    asyncio.run(main(url, key, int(concurrency), Path(file[0]) if file else None))
