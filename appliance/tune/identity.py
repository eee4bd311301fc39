"""What a calibration was measured on; it is worth nothing elsewhere."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.backends.model_hash import model_hash
from appliance.model_dir import Manifest

CPUINFO = Path("/proc/cpuinfo")
# x86 has the first four; Arm has no name, only numbers.
_CPU_FIELDS = (
    "model name",
    "cpu family",
    "model",
    "stepping",
    "CPU implementer",
    "CPU variant",
    "CPU part",
)
# Makes oneDNN believe in a lesser CPU than there is.
_ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a measurement depends on and that may change under it; each in words.

    `model` is the sha256 over the IR's two checksums, `kv_cache` the variant.
    """

    cpu: str
    openvino: str
    model: str
    kv_cache: str

    def difference(self, other: Identity) -> str | None:
        """The first thing in which `other`, where we are, is not what this was made for."""
        for name in self.__struct_fields__:
            mine, here = getattr(self, name), getattr(other, name)
            if mine != here:
                return f"made for {name} {mine:.60}, this is {here:.60}"
        return None


def identity_of(
    manifest: Manifest,
    kv_cache: str,
    *,
    cpuinfo: Path = CPUINFO,
    num_cpus: int | None = None,
) -> Identity:
    """This machine, this OpenVINO, this model. Does not import OpenVINO, which would take longer
    than all else here. `num_cpus` None: those that this process may use."""
    return Identity(
        cpu=cpu_name(cpuinfo, num_cpus),
        openvino=installed_version("openvino") or "not installed",
        model=model_hash(manifest),
        kv_cache=kv_cache,
    )


def cpu_name(cpuinfo: Path = CPUINFO, num_cpus: int | None = None) -> str:
    """Name, family and stepping as the kernel tells them, and how many CPUs this process may use,
    for how much of their time.

    `ONEDNN_MAX_CPU_ISA`, when it is set, is part of the name.
    """
    parts = [*_cpu_fields(cpuinfo), f"{num_cpus or num_usable_cpus()} CPUs"]
    if limit := os.environ.get(_ISA_VARIABLE):
        parts.append(f"{_ISA_VARIABLE}={limit}")
    return ", ".join(parts)


def num_usable_cpus() -> int:
    """Logical CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def first_cpu(cpuinfo: str) -> dict[str, str]:
    """What the text of /proc/cpuinfo tells of the first CPU, by the kernel's own names."""
    first, _, _ = cpuinfo.partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def installed_version(package: str) -> str | None:
    """The version that is installed, without importing it; None: it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_fields(cpuinfo: Path) -> Iterator[str]:
    """Nothing where the system does not tell."""
    try:
        told = first_cpu(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return
    for field in _CPU_FIELDS:
        if value := told.get(field):
            yield value if field == "model name" else f"{field} {value}"
