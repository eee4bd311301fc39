"""The sides of a comparison, started when they are first asked for and kept until the end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.benchmarks.harness.worker import Worker, WorkerError


class UnavailableError(Exception):
    """A side cannot be measured here; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a worker."""

    command: tuple[str | Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """One engine under measurement.

    `prepare` installs and converts what it needs, which may take minutes the first time, and raises
    `UnavailableError`.
    """

    name: str
    runs: Literal["in process", "HTTP"]
    prepare: Callable[[], Launch]


class Fleet:
    """Running workers by name. A context manager that ends them all.

    `prepared_s` is how long installing and converting took, which only a first run does.
    """

    def __init__(self, sides: Mapping[str, Side], logs: Path, say: Callable[[str], None]) -> None:
        self.sides = dict(sides)
        self.versions: dict[str, str] = {}
        self.unavailable: dict[str, str] = {}
        self.prepared_s = 0.0
        self._logs = logs
        self._say = say
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._workers):
            self.stop(name)

    def worker(self, name: str) -> Worker:
        """The worker of `name`, started if it is not running. Raises `UnavailableError`; a side
        that did not start once is not tried again."""
        if name in self.unavailable:
            raise UnavailableError(self.unavailable[name])
        if name not in self._workers:
            try:
                self._workers[name] = self._start(self.sides[name])
            except (UnavailableError, WorkerError) as error:
                self.give_up(name, str(error))
                raise UnavailableError(str(error)) from error
        return self._workers[name]

    def available(self, *names: str) -> list[str]:
        """Those of `names` that run now, or that could be started."""
        running = []
        for name in names:
            if name in self.sides:
                try:
                    self.worker(name)
                except UnavailableError:
                    continue
                running.append(name)
        return running

    def stop(self, name: str) -> None:
        """End a worker; asked for again, it starts anew. Nothing happens if it does not run."""
        if worker := self._workers.pop(name, None):
            worker.close()

    def give_up(self, name: str, reason: str) -> None:
        """Measure `name` no more, since it failed."""
        self.unavailable[name] = reason
        self._say(f"{name}: not measured: {reason}")
        if worker := self._workers.pop(name, None):
            worker.kill()

    def _start(self, side: Side) -> Worker:
        begun = time.monotonic()
        try:
            launch = side.prepare()
        finally:
            self.prepared_s += time.monotonic() - begun
        log = self._logs / (re.sub(r"[^a-z0-9]+", "-", side.name.lower()) + ".log")
        self._say(f"starting {side.name}")
        worker = Worker(launch.command, log=log, environment=launch.environment)
        self.versions[side.name] = worker.version
        return worker
