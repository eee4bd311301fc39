"""What every bar gets: the sides, prompts, how thorough to be, where to say what goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.benchmarks.harness.comparison import Comparison, Limit, Row, paired
from tests.benchmarks.harness.fleet import Fleet
from tests.benchmarks.harness.prompts import Prompts
from tests.benchmarks.harness.turns import take_turns
from tests.benchmarks.harness.worker import Worker

T = TypeVar("T")

# Between two turns; an engine of ours tidies up within it, see `appliance/engine/inbox.py`.
PAUSE_S = 0.4


@dataclass(frozen=True, slots=True)
class Lab:
    """`variants` are ours that are measured; `share` is how much of the repeats is done."""

    fleet: Fleet
    prompts: Prompts
    variants: tuple[str, ...]
    model_dir: Path
    share: float
    say: Callable[[str], None]
    pause_s: float = PAUSE_S

    def repeats(self, count: int) -> int:
        """`count`, or the share of it that this run does; at least 1."""
        return max(1, round(count * self.share))

    def take_turns(
        self, names: Sequence[str], rounds: int, measure: Callable[[Worker, int], T]
    ) -> dict[str, list[T]]:
        """`turns.take_turns` with this run's share of `rounds`."""
        return take_turns(self.fleet, names, self.repeats(rounds), measure, pause_s=self.pause_s)

    def versus(
        self, bar: str, unit: str, limit: Limit, peer: str, figures: Mapping[str, list[float]]
    ) -> Row:
        """The row that divides each variant's figures by the peer's of the same rounds."""
        ours, missing = {}, {}
        for variant in self.variants:
            comparison = paired(
                figures.get(variant, []),
                figures.get(peer, []),
            )
            if comparison is None:
                absent = variant if variant not in figures else peer
                missing[variant] = self.why_not(absent)
            else:
                ours[variant] = comparison
        return Row(bar, unit, limit, peer, ours, missing)

    def alone(
        self,
        bar: str,
        unit: str,
        limit: Limit,
        divisor: str,
        comparisons: Mapping[str, Comparison | None],
    ) -> Row:
        """The row of a bar that compares a variant with itself, or with nothing."""
        ours = {v: c for v, c in comparisons.items() if c is not None}
        missing = {v: self.why_not(v) for v in self.variants if v not in ours}
        return Row(bar, unit, limit, divisor, ours, missing)

    def why_not(self, name: str) -> str:
        """Why there is no figure of a side."""
        if name not in self.fleet.sides:
            return f"{name}: left out"
        return self.fleet.unavailable.get(name, f"{name}: no round was completed")
