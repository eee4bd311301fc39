"""One second of reading memory, and what clock and heat did in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.doctor.busiest import busiest, cpu_times
from appliance.doctor.memory_limit import memory_limit
from appliance.doctor.throttling import Throttling, clock_khz, read_throttling
from appliance.meminfo import read_meminfo

if TYPE_CHECKING:
    from appliance.doctor.bandwidth import Reading

_SECONDS = 0.8
_LARGEST_BYTES = 256 << 20
_SMALLEST_BYTES = 64 << 20  # less fits into caches
_SHARE = 8  # of the available memory, at most one part in so many

Meter = Callable[[frozenset[int], int, Callable[[], None]], "Reading"]
"""CPUs, bytes of the buffer, what to call after each pass -> the best pass."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`clock_khz` is the fastest that any of the CPUs ran at meanwhile, None where nobody tells;
    `busiest` is who else worked the most, None: nobody to speak of."""

    reading: Reading
    before: Throttling
    after: Throttling
    clock_khz: int | None
    busiest: str | None


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Nothing was measured, and why."""

    why: str


def read_memory(cpus: frozenset[int], buffer_bytes: int, watch: Callable[[], None]) -> Reading:
    """The meter of real boxes."""
    # Imported here: without a measurement nobody waits for numpy.
    from appliance.doctor.bandwidth import MemoryReader

    with MemoryReader(cpus, buffer_bytes) as memory:
        return memory.read(_SECONDS, watch)


def measure(meter: Meter | None, root: Path, cpus: frozenset[int]) -> Measured | Unmeasured:
    """Measure with a buffer that this box can spare."""
    if meter is None:
        return Unmeasured("told not to (--no-measure)")
    try:
        available = read_meminfo(root)["MemAvailable"]
    except OSError as error:
        return Unmeasured(f"how much memory is free is not known: {error}")
    limit = memory_limit(root)
    spare = min(available, limit if limit is not None else available) // _SHARE
    if spare < _SMALLEST_BYTES:
        return Unmeasured("too little memory is free for it")
    clocks: list[int] = []

    def watch() -> None:
        clocks.extend(khz for cpu in cpus if (khz := clock_khz(root, cpu)) is not None)

    before, others = read_throttling(root), cpu_times(root)
    try:
        reading = meter(cpus, min(spare, _LARGEST_BYTES), watch)
    # numpy says both, on a CPU that its build is not for.
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        return Unmeasured(f"{type(error).__name__}: {error}")
    return Measured(
        reading=reading,
        before=before,
        after=read_throttling(root),
        clock_khz=max(clocks, default=None),
        busiest=busiest(others, cpu_times(root)),
    )
