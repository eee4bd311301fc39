"""What the doctor says: findings, grouped in sections with the facts they rest on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Level(str, Enum):
    """How bad it is: as it should be; worth knowing; to be put right."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `id` is stable (`clock.governor`); `text` and `remedy` are for
    people and may change. A problem always has a remedy."""

    id: str
    level: Level
    text: str
    remedy: str = ""


@dataclass(slots=True)
class Section:
    """One area of the box. `facts` are JSON values; None is "not known here"."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def ok(self, name: str, text: str) -> None:
        """Add what is as it should be."""
        self._add(name, Level.OK, text, "")

    def note(self, name: str, text: str, remedy: str = "") -> None:
        """Add what is worth knowing."""
        self._add(name, Level.NOTE, text, remedy)

    def problem(self, name: str, text: str, remedy: str) -> None:
        """Add what is to be put right, and how."""
        self._add(name, Level.PROBLEM, text, remedy)

    def _add(self, name: str, level: Level, text: str, remedy: str) -> None:
        self.findings.append(Finding(f"{self.name}.{name}", level, text, remedy))
