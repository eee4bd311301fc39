"""`python -m appliance serve` in a process of its own, for tests and measurements."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx

READY = re.compile(
    r"INFO ready on (?P<url>http://\S+)/v1 after (?P<since_exec_s>[\d.]+) s: "
    r"(?P<model>\S+), .*(?P<precision>int\d).*; "
    r"load (?P<load_s>[\d.]+) s .*, warm-up (?P<warm_up_s>[\d.]+) s$"
)
START_TIMEOUT_S = 120.0


class ServedProcess:
    """A context manager: starts the service, waits for its ready line, ends it in the end."""

    def __init__(self, model_dir: Path, *settings: str, cache_dir: Path | None = None) -> None:
        arguments = ["serve", "--model", str(model_dir), "--port", "0"]
        for setting in settings:
            arguments += ["--set", setting]
        if cache_dir is not None:
            arguments += ["--set", f"engine.compile_cache_dir={cache_dir}"]
        self._arguments = arguments
        self.lines: list[str] = []

    def __enter__(self) -> ServedProcess:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("QWEN_APPLIANCE_")
        }
        # Whoever runs the tests may have API keys of their own.
        environment["XDG_CONFIG_HOME"] = "/nonexistent"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance", *self._arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        try:
            self.ready = self._wait_until_ready()
        except BaseException:
            self.process.kill()
            self._close()
            raise
        self.url = self.ready["url"]
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)
        (model,) = self.client.get("/v1/models").json()["data"]
        self.model: str = model["id"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._close()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, timeout_s: float = 20) -> int:
        """Wait for the end; the exit code, with what was still said in `lines`."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr.read().decode().splitlines()
        return self.process.wait(timeout_s)

    def body(self, content: str = "Count from 1 to 100.", **fields: object) -> dict[str, object]:
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "temperature": 0, **fields}

    def anonymous_bytes(self) -> int:
        """Memory that no file backs, which the kernel cannot drop (proc(5), `RssAnon`)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def _wait_until_ready(self) -> re.Match[str]:
        stderr = self.process.stderr
        assert stderr is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        buffered = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stderr, selectors.EVENT_READ)
            while time.monotonic() < deadline and selector.select(deadline - time.monotonic()):
                piece = os.read(stderr.fileno(), 65536)
                assert piece, f"it ended with {self.process.wait()}: {self.lines} {buffered!r}"
                *lines, buffered = (buffered + piece).split(b"\n")
                self.lines += [line.decode() for line in lines]
                for line in self.lines:
                    if match := READY.search(line):
                        return match
        raise AssertionError(f"not ready after {START_TIMEOUT_S:g} s: {self.lines}")

    def _close(self) -> None:
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process.wait(20)
