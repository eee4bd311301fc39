"""Which program works the most, of all that are not this one."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WORTH_A_WORD_S = 0.05

CpuTimes = dict[int, tuple[str, float]]
"""Process id to name and seconds of CPU time, all its threads together."""


def cpu_times(root: Path) -> CpuTimes:
    """Of every process that is there (proc(5): /proc/PID/stat), but not of this one."""
    times: CpuTimes = {}
    for path in (root / "proc").glob("[0-9]*/stat"):
        pid = int(path.parent.name)
        try:
            # The name stands in parentheses and may hold any of them, and spaces.
            name, _, rest = path.read_text(errors="replace").partition("(")[2].rpartition(")")
            words = rest.split()
            seconds = (int(words[11]) + int(words[12])) / _TICKS_PER_S
        except (OSError, ValueError, IndexError):
            continue  # it has ended
        if pid != os.getpid():
            times[pid] = (name, seconds)
    return times


def busiest(before: CpuTimes, after: CpuTimes) -> str | None:
    """`name, process 12`, of the one that worked the most in between; None: none to speak of."""
    used = {
        pid: seconds - before[pid][1]
        for pid, (_, seconds) in after.items()
        if pid in before and seconds - before[pid][1] >= _WORTH_A_WORD_S
    }
    if not used:
        return None
    pid = max(used, key=lambda one: used[one])
    return f"{after[pid][0]}, process {pid}"
