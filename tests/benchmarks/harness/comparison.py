"""Ratios of two sides that took turns, what a bar asks of them, and the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Comparison:
    """One side's figure of every round and, of the same rounds, what it is divided by.

    Without `theirs` the figure itself is what the bar bounds (memory, a share, a count).
    """

    ours: tuple[float, ...]
    theirs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        assert self.ours, "a round is needed"
        assert self.theirs is None or len(self.theirs) == len(self.ours), "one value per round"

    @property
    def our_figure(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ours)

    @property
    def their_figure(self) -> float | None:
        """Median over the rounds."""
        return None if self.theirs is None else statistics.median(self.theirs)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours divided by theirs, round by round."""
        if self.theirs is None:
            return self.ours
        return tuple(mine / base for mine, base in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, which a busy moment of one round does not move."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest ratio."""
        return min(self.ratios), max(self.ratios)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a ratio must keep."""

    kind: Literal["<=", ">="]
    value: float

    def is_kept(self, ratio: float) -> bool:
        """Whether `ratio` is on the right side; the limit itself is."""
        return ratio <= self.value if self.kind == "<=" else ratio >= self.value

    def short_by(self, ratio: float) -> float:
        """How far `ratio` is on the wrong side, as a share of the limit; 0 when it is kept."""
        if self.is_kept(ratio):
            return 0.0
        return abs(ratio - self.value) / abs(self.value) if self.value else abs(ratio)

    def verdict(self, ratio: float) -> str:
        """`pass`, or by how much of the limit it is missed; by how many where the limit is none."""
        short = self.short_by(ratio)
        if not short:
            return "pass"
        return f"short by {short:.0%}" if self.value else f"short by {short:g}"

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a bar, our variants, what they are compared with.

    `ours` has a comparison for each variant that was measured, `missing` one line for each that
    was not, and why. `peer` names the divisor. It is enough that one variant keeps the limit.
    """

    bar: str
    unit: str
    limit: Limit
    peer: str
    ours: Mapping[str, Comparison]
    missing: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether one variant keeps the limit."""
        return any(self.limit.is_kept(one.ratio) for one in self.ours.values())

    @property
    def verdicts(self) -> dict[str, str]:
        """`pass`, `short by N%` or `not measured`, by variant."""
        said = dict.fromkeys(self.missing, "not measured")
        for variant, comparison in self.ours.items():
            said[variant] = self.limit.verdict(comparison.ratio)
        return said


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Comparison | None:
    """A comparison round by round; None when one of the sides has no rounds."""
    return Comparison(tuple(ours), tuple(theirs)) if ours and theirs else None
