"""A `Progress` that remembers what it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class RecordedStage:
    name: str
    unit: str
    done: int = 0
    expected: int | None = None

    def advance(self, amount: int) -> None:
        assert amount >= 0
        self.done += amount

    def total(self, total: int) -> None:
        self.expected = total


@dataclass
class RecordedProgress:
    stages: list[RecordedStage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, *, unit: str = "") -> Iterator[RecordedStage]:
        stage = RecordedStage(name, unit)
        self.stages.append(stage)
        yield stage

    def note(self, text: str) -> None:
        self.notes.append(text)
