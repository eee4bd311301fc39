"""What the kernel tells of this machine's memory."""

from __future__ import annotations

from pathlib import Path


def read_meminfo(root: Path = Path("/")) -> dict[str, int]:
    """`proc/meminfo` below `root`: names such as `MemAvailable` (proc(5)) to bytes.

    Raises `OSError`, also when it has no `MemTotal` and `MemAvailable`.
    """
    path = root / "proc/meminfo"
    told: dict[str, int] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        amount, _, unit = value.strip().partition(" ")
        if unit == "kB" and amount.isdecimal():
            told[name] = int(amount) * 1024
    for name in ("MemTotal", "MemAvailable"):
        if name not in told:
            raise OSError(f"{path} has no {name}")
    return told
