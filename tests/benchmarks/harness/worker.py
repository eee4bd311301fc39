"""The bench's end of a worker process; the protocol stands in `workers/worker_protocol.py`."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness.answer import Answer

_START_TIMEOUT_S = 420.0
_VERB_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 60.0

Request = dict[str, Any]


class WorkerError(Exception):
    """A worker did not start, ended, was silent for too long or could not do what it was asked.

    The text is one line.
    """


def request(prompt_ids: Sequence[int], max_tokens: int, **more: Any) -> Request:
    """A request that runs to `max_tokens` whatever the model says (`ignore_eos`)."""
    return {
        "prompt_ids": list(prompt_ids),
        "max_tokens": max_tokens,
        "ignore_eos": True,
        **more,
    }


class Worker:
    """One running worker. Its stderr is in `log`. Raises `WorkerError` when it does not start."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = _START_TIMEOUT_S,
    ) -> None:
        self._log = log
        self._buffer = b""
        with log.open("ab") as stderr:
            try:
                self.process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**_environment(), **(environment or {})},
                    start_new_session=True,  # so that an interrupt reaches the bench alone
                )
            except OSError as error:
                raise WorkerError(f"{command[0]} cannot be started: {error.strerror}") from None
        try:
            hello = self._receive(start_timeout_s)
            if "ready" not in hello:
                raise WorkerError(str(hello.get("fatal", f"it began with {hello}")))
        except BaseException:
            self.kill()
            raise
        self.version: str = hello["ready"]["version"]
        self.max_rows: int = hello["ready"]["max_rows"]

    def generate(self, prompt_ids: Sequence[int], max_tokens: int, **more: Any) -> Answer:
        """One request, alone, greedy. Raises `WorkerError`."""
        return _parsed(self.call("generate", **request(prompt_ids, max_tokens, **more)))

    def generate_many(self, requests: Sequence[Request], *, clients: int) -> list[Answer]:
        """`clients` clients take the requests in order, each as soon as it has its last answer.

        Answers are in the order of the requests. Raises `WorkerError`.
        """
        answers = self.call("generate_many", requests=list(requests), clients=clients)
        return [_parsed(answer) for answer in answers]

    def anonymous_bytes(self) -> int:
        """Memory that no file backs, of the process that computes. Raises `WorkerError`."""
        return int(self.call("memory")["anonymous_bytes"])

    def call(self, verb: str, **arguments: Any) -> Any:
        """Have the worker do `verb`. Raises `WorkerError`."""
        assert self.process.stdin is not None
        line = json.dumps({"verb": verb, **arguments}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError:
            raise WorkerError(self._how_it_ended()) from None
        reply = self._receive(_VERB_TIMEOUT_S)
        if "done" not in reply:
            raise WorkerError(f"{verb}: {reply.get('failed', reply)}")
        return reply["done"]

    def close(self) -> None:
        """Let it end by itself, as a service ends when it is told to; kill it when it does not."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_pipes()

    def kill(self) -> None:
        """End it and whatever it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        """The next line. Raises `WorkerError` when none comes or it is none of the protocol."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise WorkerError(f"silent for {timeout_s:g} s; see {self._log}")
                piece = os.read(descriptor, 1 << 20)
                if not piece:
                    raise WorkerError(self._how_it_ended())
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise WorkerError(f"it said {line[:80]!r}, which is none of the protocol")
        return message

    def _how_it_ended(self) -> str:
        """Exit status and the last thing it said."""
        status = self.process.wait()
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else "it said nothing"
        return f"it ended with exit status {status}: {last[:200]}"


def _environment() -> dict[str, str]:
    """This process's, without the settings of a service that the person may run besides."""
    return {k: v for k, v in os.environ.items() if not k.startswith("QWEN_APPLIANCE_")}


def _parsed(data: dict[str, Any]) -> Answer:
    try:
        return Answer.from_json(data)
    except ValueError as error:
        raise WorkerError(str(error)) from None
