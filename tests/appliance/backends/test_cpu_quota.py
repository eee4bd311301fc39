"""How many threads fit the CPU time that cgroups allow, of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.backends.cpu_quota import cpu_quota, threads_within_quota
from tests.fake_machine import CPUS, write

CGROUPS = "sys/fs/cgroup"
FOUR = frozenset(range(4))


def v2(tree: Path, path: str, **limits: str) -> None:
    """A process in the cgroup `path`; `limits` by the cgroups' names, `root` is the top."""
    write(tree, {"proc/self/cgroup": f"0::{path}"})
    for name, limit in limits.items():
        group = "" if name == "root" else f"{name.replace('_', '/')}/"
        write(tree, {f"{CGROUPS}/{group}cpu.max": limit})


def v1(root: Path, mount: str, group: str, quota_us: int, period_us: int = 100000) -> None:
    directory = f"{CGROUPS}/{mount}{group}"
    write(
        root,
        {
            f"{directory}/cpu.cfs_quota_us": str(quota_us),
            f"{directory}/cpu.cfs_period_us": str(period_us),
        },
    )


@pytest.mark.parametrize(
    ("limit", "quota", "threads"),
    [
        ("max 100000", None, 0),
        ("150000 100000", 1.5, 1),
        ("50000 100000", 0.5, 1),
        ("250000 100000", 2.5, 2),
        ("300000 100000", 3.0, 3),
        ("400000 100000", 4.0, 0),
        ("30000 10000", 3.0, 3),
        ("not a limit", None, 0),
        ("1 0", None, 0),
    ],
)
def test_the_time_of_a_container(
    tmp_path: Path, limit: str, quota: float | None, threads: int
) -> None:
    v2(tmp_path, "/", root=limit)
    assert cpu_quota(tmp_path) == quota
    assert threads_within_quota(tmp_path, FOUR) == threads


def test_the_tightest_of_all_cgroups_above_counts(tmp_path: Path) -> None:
    limits = {"system.slice": "200000 100000", "system.slice_a.service": "max 100000"}
    v2(tmp_path, "/system.slice/a.service", **limits)
    assert cpu_quota(tmp_path) == 2.0


def test_a_cgroup_whose_path_is_the_host_s(tmp_path: Path) -> None:
    """A container without a cgroup namespace: its own cgroup is mounted as the root."""
    v2(tmp_path, "/docker/0123", root="120000 100000")
    assert cpu_quota(tmp_path) == 1.2


@pytest.mark.parametrize(
    ("controllers", "mount"),
    [("cpu", "cpu"), ("cpu,cpuacct", "cpu,cpuacct"), ("cpuacct,cpu", "cpu")],
)
def test_version_1(tmp_path: Path, controllers: str, mount: str) -> None:
    lines = f"5:cpuset:/elsewhere\n4:{controllers}:/box/inner\n0::/elsewhere"
    write(tmp_path, {"proc/self/cgroup": lines})
    v1(tmp_path, mount, "", -1)
    v1(tmp_path, mount, "/box", 300000)
    v1(tmp_path, mount, "/box/inner", 20000, 10000)
    v1(tmp_path, mount, "/elsewhere", 1)
    assert cpu_quota(tmp_path) == 2.0


def test_no_cgroups_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert threads_within_quota(tmp_path, FOUR) == 0


def test_two_cpus_of_one_core_get_one_thread(tmp_path: Path) -> None:
    """Two cores, four CPUs: time for three is enough, and OpenVINO's own choice, two, is right."""
    v2(tmp_path, "/", root="300000 100000")
    siblings = {
        f"{CPUS}/cpu{cpu}/topology/thread_siblings_list": "0,2" if cpu % 2 == 0 else "1,3"
        for cpu in FOUR
    }
    write(tmp_path, siblings)
    assert threads_within_quota(tmp_path, FOUR) == 0


def test_this_process_s_own_are_readable() -> None:
    quota = cpu_quota()
    assert quota is None or quota > 0
    assert threads_within_quota() >= 0
