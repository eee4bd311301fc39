"""Trees of files that look like /sys, /proc and /run of machines we do not have.

Kernel files are plain files here: they take any value, which the real ones do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CPUS = "sys/devices/system/cpu"


def write(root: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")


def memory_knobs(root: Path) -> None:
    """What every Linux has."""
    write(
        root,
        {
            "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
            "proc/sys/vm/swappiness": "60",
        },
    )
    (root / "run/systemd/system").mkdir(parents=True)


def cpus(root: Path, num: int, *, isolated: str = "") -> None:
    """`num` online CPUs, without control over their clocks."""
    everyone = f"0-{num - 1}"
    write(
        root,
        {
            f"{CPUS}/online": everyone,
            f"{CPUS}/possible": everyone,
            f"{CPUS}/present": everyone,
            f"{CPUS}/offline": "",
            f"{CPUS}/isolated": isolated,
            **{f"{CPUS}/cpu{cpu}/topology/core_id": str(cpu) for cpu in range(num)},
        },
    )


def intel_pstate(root: Path, num: int, *, governor: str = "powersave") -> None:
    """Clock control as intel_pstate in active mode offers it, one policy per CPU."""
    for cpu in range(num):
        policy = f"{CPUS}/cpufreq/policy{cpu}"
        write(
            root,
            {
                f"{policy}/scaling_driver": "intel_pstate",
                f"{policy}/scaling_governor": governor,
                f"{policy}/scaling_available_governors": "performance powersave",
                f"{policy}/energy_performance_preference": "balance_power",
                f"{policy}/energy_performance_available_preferences": (
                    "default performance balance_performance balance_power power"
                ),
                f"{policy}/cpuinfo_max_freq": "3400000",
                f"{policy}/scaling_cur_freq": "800000",
            },
        )
        (root / f"{CPUS}/cpu{cpu}/cpufreq").symlink_to(f"../cpufreq/policy{cpu}")
    write(root, {f"{CPUS}/intel_pstate/no_turbo": "1", f"{CPUS}/intel_pstate/status": "active"})


def n100(root: Path) -> Path:
    """Four efficiency cores, one thread each, no other kind; turbo switched off."""
    cpus(root, 4)
    intel_pstate(root, 4)
    memory_knobs(root)
    return root


def hybrid(root: Path) -> Path:
    """Two performance cores with two threads each (0-3), eight efficiency cores (4-11)."""
    cpus(root, 12)
    intel_pstate(root, 12)
    write(root, {"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-11"})
    memory_knobs(root)
    return root


def virtual(root: Path) -> Path:
    """Two CPUs of a virtual machine."""
    cpus(root, 2)
    memory_knobs(root)
    return root


def kernel_value(root: Path, path: str) -> str:
    return (root / path).read_text().strip()
