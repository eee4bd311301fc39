"""The language between the bench and its workers: one JSON object per line, on stdin and stdout.

    worker   {"ready": {"version": "genai 2026.4.1", "max_rows": 8}}, or {"fatal": "why not"}
    bench    {"verb": "generate", "prompt_ids": [1, 2], "max_tokens": 8}
    worker   {"done": {...}}, or {"failed": "why not"}

Verbs that all workers know; times are milliseconds since the verb began:

    generate       one request, alone: an answer
    generate_many  {"requests": [...], "clients": C}: C clients take the requests in order, each its
                   next one when its last is answered, none before its `at_ms`: a list of answers
    memory         {"anonymous_bytes": N} of the process that computes

A request is {prompt_ids, max_tokens, ignore_eos, at_ms?}; an answer {start_ms, times_ms, token_ids,
num_tokens, num_cached_tokens}: one time per arrival, which is one token unless `num_tokens` says
otherwise; `num_cached_tokens` null where the engine does not tell.

Standard library only, Python 3.10: this runs in venvs of the peers', which hold nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

Verb = Callable[..., Any]


class Channel:
    """The worker's end. Made before anything heavy is imported: what libraries print then goes to
    stderr, so that stdout carries the protocol alone."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def serve(self, verbs: Mapping[str, Verb], *, version: str, max_rows: int) -> None:
        """Answer verbs until stdin ends. What a verb raises is answered as `failed`."""
        self._say({"ready": {"version": version, "max_rows": max_rows}})
        for line in sys.stdin:
            command = json.loads(line)
            verb = command.pop("verb")
            try:
                if verb not in verbs:
                    raise ValueError(f"no verb {verb!r} here")
                answer = {"done": verbs[verb](**command)}
            except Exception as error:
                answer = {"failed": one_line(error)}
            self._say(answer)

    def fatal(self, error: BaseException) -> None:
        """Say why there will be no `ready`."""
        self._say({"fatal": one_line(error)})

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def run(main: Callable[[Channel], None]) -> None:
    """Run a worker's `main`; what it raises before it serves is told to the bench."""
    channel = Channel()
    try:
        main(channel)
    except Exception as error:
        channel.fatal(error)
        raise SystemExit(1) from error


def one_line(error: BaseException) -> str:
    """The error in one line, its kind in front."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


class Clock:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def ms(self) -> float:
        return (time.perf_counter() - self._start) * 1000


def answer(
    start_ms: float,
    times_ms: list[float],
    token_ids: list[int],
    *,
    num_tokens: int | None = None,
    num_cached_tokens: int | None = None,
) -> dict[str, Any]:
    """An answer as the protocol has it."""
    return {
        "start_ms": start_ms,
        "times_ms": times_ms,
        "token_ids": token_ids,
        "num_tokens": len(token_ids) if num_tokens is None else num_tokens,
        "num_cached_tokens": num_cached_tokens,
    }


def one_by_one(generate: Verb) -> Verb:
    """`generate_many` for an engine of one stream at a time: the clients wait in line."""

    def generate_many(requests: list[dict[str, Any]], clients: int) -> list[dict[str, Any]]:
        clock, answers = Clock(), []
        for request in requests:
            at_ms = request.pop("at_ms", 0.0)
            time.sleep(max(0.0, at_ms - clock.ms()) / 1000)
            begun = clock.ms()
            single = generate(**request)
            single["times_ms"] = [begun + t - single["start_ms"] for t in single["times_ms"]]
            answers.append({**single, "start_ms": begun})
        return answers

    return generate_many


async def closed_loop(
    answer_one: Callable[..., Awaitable[dict[str, Any]]],
    requests: list[dict[str, Any]],
    clients: int,
) -> list[dict[str, Any]]:
    """`generate_many` for an engine that is waited for: `answer_one(clock, **request)`."""
    clock = Clock()
    waiting = iter(enumerate(requests))
    answers: dict[int, dict[str, Any]] = {}

    async def client() -> None:
        for number, request in waiting:
            wait_ms = request.pop("at_ms", 0.0) - clock.ms()
            if wait_ms > 0:
                await asyncio.sleep(wait_ms / 1000)
            answers[number] = await answer_one(clock, **request)

    await asyncio.gather(*(client() for _ in range(clients)))
    return [answers[number] for number in range(len(requests))]


def memory(pid: int | str = "self") -> dict[str, int]:
    """The verb `memory`: memory that no file backs, which the kernel cannot drop (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {"anonymous_bytes": int(status.split("RssAnon:")[1].split()[0]) * 1024}
