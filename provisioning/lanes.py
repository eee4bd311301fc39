"""Several long installs side by side, each in a lane of its own, shown to the person who waits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TextIO

LIVE_INTERVAL_S = 0.25  # between two drawings of the line on a terminal
PLAIN_INTERVAL_S = 15.0  # between two lines elsewhere
MAX_LINE = 100


class Lane:
    """One install: `body` runs in a thread and starts its commands through `call`.

    `log` is where those commands write; its last line is shown while one of them runs. An
    exception that leaves `body` ends up in `error`.
    """

    def __init__(self, name: str, body: Callable[[Lane], None]) -> None:
        self.name = name
        self.log: Path | None = None
        self.error: Exception | None = None
        self.started_s = 0.0
        self._body = body
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the clock of `elapsed_s` starts here."""
        self.started_s = time.monotonic()
        self._thread.start()

    def is_running(self) -> bool:
        """Whether the body has not returned yet."""
        return self._thread.is_alive()

    def elapsed_s(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self.started_s

    def call(
        self,
        command: Sequence[str | Path],
        log: BinaryIO,
        *,
        cwd: Path,
        env: Mapping[str, str],
        keep_open: int,
    ) -> int:
        """Run `command` to its end with all output in `log`; the descriptor `keep_open` is its too.

        Returns the exit status. Once the lane was stopped, nothing new is started.
        """
        if self._stopped:
            return -signal.SIGTERM
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            pass_fds=(keep_open,),
            start_new_session=True,  # so that `stop` reaches what the command itself started
        )
        return self._process.wait()

    def stop(self) -> None:
        """End the running command and wait for the body."""
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.killpg(self._process.pid, signal.SIGTERM)
        self._thread.join()

    def latest(self) -> str:
        """What it does now: the last line of the log."""
        if self.log is None:
            return "another run makes it already, waiting"
        with self.log.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 2000))
            lines = log.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _run(self) -> None:
        try:
            self._body(self)
        except Exception as error:  # handed to the thread that waits
            self.error = error


def run_all(lanes: Sequence[Lane], *, at_once: int, out: TextIO = sys.stderr) -> None:
    """Run all lanes, `at_once` of them at a time, and show them on `out`.

    Returns when all have ended; the others go on when one fails. SIGINT and SIGTERM end every
    running command and come out as KeyboardInterrupt.
    """
    waiting, running = list(lanes), list[Lane]()
    show = _Live(out) if out.isatty() else _Plain(out)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                lane = waiting.pop(0)
                lane.start()
                running.append(lane)
                show.begin(lane)
            time.sleep(0.02)
            for lane in [lane for lane in running if not lane.is_running()]:
                running.remove(lane)
                show.end(lane)
            show.update(running)
    finally:
        for lane in running:
            lane.stop()
        signal.signal(signal.SIGTERM, previous)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Plain:
    """Lines for a log file: a beginning, an end, and a sign of life in between."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown_s = time.monotonic()

    def begin(self, lane: Lane) -> None:
        self._line(f"{lane.name}: installing")

    def update(self, running: Sequence[Lane]) -> None:
        if time.monotonic() - self._shown_s >= PLAIN_INTERVAL_S:
            for lane in running:
                self._line(f"{lane.name}: {lane.elapsed_s():.0f} s, {lane.latest()}"[:MAX_LINE])

    def end(self, lane: Lane) -> None:
        outcome = "failed" if lane.error else "ready"
        self._line(f"{lane.name}: {outcome} after {lane.elapsed_s():.0f} s")

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
        self._shown_s = time.monotonic()


class _Live(_Plain):
    """One line that is drawn again and again; what has ended stays above it."""

    def begin(self, lane: Lane) -> None:
        self._shown_s = 0.0

    def update(self, running: Sequence[Lane]) -> None:
        if running and time.monotonic() - self._shown_s >= LIVE_INTERVAL_S:
            clocks = "  ".join(f"{lane.name} {lane.elapsed_s():.0f} s" for lane in running)
            text = f"{clocks}  {running[0].latest()}"[:MAX_LINE]
            self._out.write(f"\r\x1b[K{text}")
            self._out.flush()
            self._shown_s = time.monotonic()

    def _line(self, text: str) -> None:
        super()._line(f"\r\x1b[K{text}")
