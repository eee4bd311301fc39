"""How much CPU time the cgroups allow this process, as `docker run --cpus` and systemd limit it.

OpenVINO follows the CPUs that a process may run on (affinity, cpuset) by itself, but not the time
it may have on them: with a thread per core and less time than that, all of them are stopped
together for the rest of every period, in the middle of a token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("sys/fs/cgroup")
# Version 1 mounts the controller under one of these names; version 2 has one tree for all.
_V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def threads_within_quota(root: Path = Path("/"), allowed: frozenset[int] | None = None) -> int:
    """How many threads can run without being stopped; 0 where the quota is no limit.

    Rounded down, since requests want some time, too; at least 1. `root` is where `proc` and `sys`
    are found, `allowed` the CPUs that this process may run on.
    """
    quota = cpu_quota(root)
    if quota is None:
        return 0
    cores = _num_cores(root, frozenset(os.sched_getaffinity(0)) if allowed is None else allowed)
    return 0 if quota >= cores else max(1, int(quota))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time in each period, the least of this cgroup's and those above; None: all."""
    quotas = [quota for group in _own_groups(root) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _num_cores(root: Path, cpus: frozenset[int]) -> int:
    """Cores, each of which may be two CPUs; OpenVINO uses one thread for each."""
    siblings = set()
    for cpu in cpus:
        try:
            topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            siblings.add((topology / "thread_siblings_list").read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def _own_groups(root: Path) -> Iterator[Path]:
    """This process's cgroup and all above it, in either version."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [root / _CGROUPS]
        elif "cpu" in controllers.split(","):
            mounts = [root / _CGROUPS / name for name in _V1_MOUNTS]
        else:
            continue
        # In a container the path may be the host's, of which only the end is mounted, as the root.
        group = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / part for part in (group, *group.parents))


def _quota_of(group: Path) -> float | None:
    """The cgroup's own limit; None without one, or where there is no such cgroup."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        # Unlimited is "max" in version 2, -1 in version 1.
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None
