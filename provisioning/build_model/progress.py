"""Shows a build to the person who waits for it.

On a terminal one line per stage, redrawn in place:

    export     ━━━━━━━━━━━━────────  61 %  598/988 MB  0:42

Elsewhere (a log, a pipe) plain lines: one at the start, one at each further tenth or after ten
seconds, whichever comes later, one at the end. A stage without a known total shows elapsed time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from provisioning.build_model.sources.base import Progress, Stage

_BAR_WIDTH = 24
_REDRAW_S = 0.25
_PLAIN_EVERY_S = 10.0
_NAME_WIDTH = 11


def create_progress(stream: TextIO | None = None) -> StageProgress:
    """The display that suits `stream` (default: standard output)."""
    stream = sys.stdout if stream is None else stream
    return StageProgress(stream, terminal=stream.isatty())


class StageProgress(Progress):
    """Stages one after another on `stream`, never two at once; usable from one thread."""

    def __init__(self, stream: TextIO, *, terminal: bool) -> None:
        self._stream = stream
        self._terminal = terminal

    @contextmanager
    def stage(self, name: str, *, unit: str = "") -> Iterator[Stage]:
        """Open a stage; how it ends (done or failed) is shown when the block is left."""
        running = _Running(name, unit)
        shown = _TerminalLine if self._terminal else _PlainLines
        with shown(self._stream, running):
            yield running

    def note(self, text: str) -> None:
        """Write `text` as a line of its own."""
        self._stream.write(text + "\n")
        self._stream.flush()


class _Running(Stage):
    """The counts of one stage. Written by the build's thread, read by the display's."""

    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.done, self.of = 0, 0
        self._started = time.monotonic()

    def advance(self, amount: int) -> None:
        self.done += amount

    def total(self, total: int) -> None:
        self.of = total

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1; None while the total is not known."""
        return min(1.0, self.done / self.of) if self.of else None

    def counts(self) -> str:
        """`598/988 MB`, `12/40 prompts`; empty while the total is not known."""
        if not self.of:
            return ""
        if self.unit == "bytes":
            return f"{self.done / 1e6:.0f}/{self.of / 1e6:.0f} MB"
        return f"{self.done}/{self.of} {self.unit}".rstrip()


class _Display:
    """Calls `show` from a thread of its own while the stage runs, `finish` once at its end."""

    def __init__(self, stream: TextIO, running: _Running) -> None:
        self.stream, self.running = stream, running
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self.start()
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self.finish("failed" if kind else "done")

    def _watch(self) -> None:
        while not self._over.wait(_REDRAW_S):
            self.show()

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def start(self) -> None:
        raise NotImplementedError

    def show(self) -> None:
        raise NotImplementedError

    def finish(self, how: str) -> None:
        raise NotImplementedError


class _TerminalLine(_Display):
    """One line, redrawn with a carriage return and an erase-to-end."""

    def start(self) -> None:
        self.show()

    def show(self) -> None:
        stage = self.running
        parts = [
            f"{stage.name:<{_NAME_WIDTH}}",
            _bar(stage),
            stage.counts(),
            clock(stage.elapsed_s),
        ]
        self.write("\r" + "  ".join(part for part in parts if part) + "\x1b[K")

    def finish(self, how: str) -> None:
        stage = self.running
        counts = f"  {stage.counts()}" if stage.of else ""
        self.write(
            f"\r{stage.name:<{_NAME_WIDTH}}  {how}{counts}  {clock(stage.elapsed_s)}\x1b[K\n"
        )


class _PlainLines(_Display):
    """Lines that are never taken back."""

    def __init__(self, stream: TextIO, running: _Running) -> None:
        super().__init__(stream, running)
        self._last_s = 0.0
        self._last_tenth = 0

    def start(self) -> None:
        self.write(f"{self.running.name}: started\n")

    def show(self) -> None:
        stage, now = self.running, self.running.elapsed_s
        if now - self._last_s < _PLAIN_EVERY_S:
            return
        fraction = stage.fraction
        tenth = int(fraction * 10) if fraction is not None else self._last_tenth + 1
        if tenth <= self._last_tenth:
            return
        self._last_s, self._last_tenth = now, tenth
        share = "" if fraction is None else f"{fraction:.0%} ({stage.counts()}), "
        self.write(f"{stage.name}: {share}{clock(now)}\n")

    def finish(self, how: str) -> None:
        self.write(f"{self.running.name}: {how} in {self.running.elapsed_s:.1f} s\n")


def _bar(stage: _Running) -> str:
    fraction = stage.fraction
    if fraction is None:
        return ""
    filled = round(fraction * _BAR_WIDTH)
    return "━" * filled + "─" * (_BAR_WIDTH - filled) + f" {fraction:>4.0%}"


def clock(seconds: float) -> str:
    """`0:42`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
