"""Counters of how often and how long heat slowed the CPU down, and its clock right now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True, slots=True)
class Throttling:
    """Since boot, of the CPU that had most of it. None: this CPU or kernel does not count."""

    num_times: int | None
    milliseconds: int | None


def read_throttling(root: Path) -> Throttling:
    """Cores and their package count apart; whichever counted more is told."""
    return Throttling(_most(root, "*_throttle_count"), _most(root, "*_throttle_total_time_ms"))


def clock_khz(root: Path, cpu: int) -> int | None:
    """What the CPU runs at."""
    return _number(root / _CPUS / f"cpu{cpu}" / "cpufreq/scaling_cur_freq")


def _most(root: Path, name: str) -> int | None:
    found = (root / _CPUS).glob(f"cpu[0-9]*/thermal_throttle/{name}")
    return max((n for path in found if (n := _number(path)) is not None), default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
