"""What the client ran on; figures without it mean nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of the client; None where the system does not tell."""

    cpu_model: str | None
    num_cpus: int | None
    governor: str | None
    kernel: str
    load_average: tuple[float, float, float] | None


def this_machine(root: Path = Path("/")) -> Machine:
    """Read it from `root`/proc and `root`/sys."""
    governor = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    return Machine(
        cpu_model=_cpu_model(root / "proc/cpuinfo"),
        num_cpus=os.cpu_count(),
        governor=(_read(governor) or "").strip() or None,
        kernel=f"{platform.system()} {platform.release()}",
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
    )


def _cpu_model(path: Path) -> str | None:
    for line in (_read(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
