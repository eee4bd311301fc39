"""Which CPUs the service is to run on, from what the kernel tells of them."""

from __future__ import annotations

from pathlib import Path

from appliance.tune.host.cpu_list import format_cpus, parse_cpus

_CPUS = Path("sys/devices/system/cpu")
# Kinds of cores as Intel's hybrid CPUs have them; elsewhere neither file is there.
_PERFORMANCE = Path("sys/devices/cpu_core/cpus")
_EFFICIENCY = Path("sys/devices/cpu_atom/cpus")


def choose_cpus(root: Path, allowed: frozenset[int]) -> tuple[frozenset[int], str]:
    """The CPUs to run on, and why these.

    `root` is where `sys` is found. `allowed` are the CPUs that this process may run on, which a
    cpuset narrows. Never empty if `allowed` is not: a preference that leaves nothing is dropped.
    """
    usable = (_listed(root / _CPUS / "online") or allowed) & allowed or allowed
    isolated = _listed(root / _CPUS / "isolated") & usable
    left_out = ""
    if isolated and isolated != usable:
        usable -= isolated
        left_out = f", without the isolated {format_cpus(isolated)}"
    fast, kind = _fast(root, usable)
    if fast and fast != usable:
        return fast, f"{kind} of {format_cpus(usable)}{left_out}"
    return usable, f"all {len(usable)}, of one kind{left_out}"


def _fast(root: Path, usable: frozenset[int]) -> tuple[frozenset[int], str]:
    performance = _listed(root / _PERFORMANCE) & usable
    if performance and _listed(root / _EFFICIENCY):
        return performance, "the performance cores"
    # On arm64 the kernel rates each core, the fastest with 1024.
    capacities = {cpu: _capacity(root, cpu) for cpu in usable}
    most = max(capacities.values())
    return frozenset(c for c, capacity in capacities.items() if capacity == most), "the fastest"


def _capacity(root: Path, cpu: int) -> int:
    try:
        return int((root / _CPUS / f"cpu{cpu}" / "cpu_capacity").read_text())
    except (OSError, ValueError):
        return 0


def _listed(path: Path) -> frozenset[int]:
    """The CPUs in a file; none where there is no such file."""
    try:
        return parse_cpus(path.read_text())
    except (OSError, ValueError):
        return frozenset()
