"""How fast the cores together read memory, which is what a decode step waits for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np

BUFFER_BYTES = 512 << 20
"""Far above any last-level cache of the boxes this is for."""
_READS = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The best pass over the buffer. `cpu_share` is how much of its CPUs' time it got: well below
    1 when other programs, or a quota, kept them from it, and then memory can do more than this."""

    bytes_per_s: float
    cpu_share: float


def _bind(cpus: frozenset[int]) -> None:
    """Keep this thread on these CPUs, unless a sandbox forbids to choose."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cpus)


class MemoryReader:
    """Reads one large buffer with a thread per core; a context manager that frees it.

    Each thread looks for the greatest of its part's 32-bit numbers, which numpy does in vectors and
    without the GIL: as much work per byte as a read can be checked with. `cpus` are those to read
    on; None: all that this process may use.
    """

    def __init__(
        self, cpus: frozenset[int] | None = None, buffer_bytes: int = BUFFER_BYTES
    ) -> None:
        self._cpus = cpus or frozenset(os.sched_getaffinity(0))
        self._buffer_bytes = buffer_bytes

    def __enter__(self) -> MemoryReader:
        num_threads = len(self._cpus)
        self._pool = ThreadPoolExecutor(num_threads, initializer=_bind, initargs=(self._cpus,))
        buffer = np.ones(self._buffer_bytes // 4, dtype=np.int32)
        self._parts = np.array_split(buffer, num_threads)
        self.read()  # touches every page, wakes the threads
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        self._parts = []

    def bytes_per_s(self) -> float:
        """Of the best of three passes: what memory can give, not what it gave in a bad moment."""
        return self.read().bytes_per_s

    def read(self, seconds: float = 0.0, watch: Callable[[], None] | None = None) -> Reading:
        """Three passes, and as many more as begin within `seconds`; `watch` is called after each,
        while the cores are still warm."""
        readings: list[Reading] = []
        end = time.perf_counter() + seconds
        while len(readings) < _READS or time.perf_counter() < end:
            begun, used = time.perf_counter(), time.process_time()
            list(self._pool.map(np.max, self._parts))
            took, used = time.perf_counter() - begun, time.process_time() - used
            readings.append(Reading(self._buffer_bytes / took, used / took / len(self._parts)))
            if watch is not None:
                watch()
        return max(readings, key=lambda one: one.bytes_per_s)
