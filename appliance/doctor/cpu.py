"""The CPU: what it is, its kinds of cores, and the instructions that INT8 arithmetic wants."""

from __future__ import annotations

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.tune.host.cpu_list import format_cpus, parse_cpus
from appliance.tune.identity import first_cpu

# The kernel's names (x86: `flags`, arm64: `Features`) and what people call them.
_WIDE = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot products",
    "i8mm": "INT8 matrices",
    "sve": "SVE",
}
_INT8 = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_LESSER = "ONEDNN_MAX_CPU_ISA"


def examine(box: Box) -> Section:
    """Findings of this section; no core and no flag is a reason to fail."""
    section = Section("cpu")
    cpuinfo = first_cpu(box.text("proc/cpuinfo") or "")
    flags = frozenset((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    name = cpuinfo.get("model name") or _by_numbers(cpuinfo) or "unknown to this kernel"
    where = _where(box, flags)
    section.facts.update(
        model=name,
        num_cores=_num_cores(box),
        kinds=_kinds(box),
        online=_online(box),
        used=format_cpus(box.cpus[0]),
        flags=[told for flag, told in _WIDE.items() if flag in flags],
        runs_in=where,
    )
    cores, online = section.facts["num_cores"], section.facts["online"]
    section.ok("model", f"{name}, {cores} cores, CPUs {online or 'unknown'}; {where}")
    for kind, cpus in section.facts["kinds"].items():
        section.ok(kind, f"{kind} cores: CPUs {cpus}")
    section.ok("used", f"the service uses CPUs {section.facts['used']}: {box.cpus[1]}")
    _examine_flags(section, flags, box)
    return section


def _examine_flags(section: Section, flags: frozenset[str], box: Box) -> None:
    told = ", ".join(section.facts["flags"])
    is_x86 = "sse2" in flags
    if not flags:
        section.note("flags", "the kernel does not tell which instructions the CPU has")
    elif is_x86 and "avx2" not in flags:
        section.problem(
            "flags",
            "this CPU has no AVX2, so tokens take several times as long",
            "in a virtual machine, let it have the host's CPU (type `host`); else another box",
        )
    elif not flags & _INT8:
        section.note(
            "flags", f"{told or 'no wide vectors'}, but no INT8 dot products: prompts take longer"
        )
    else:
        section.ok("flags", told)
    if lesser := box.env.get(_LESSER):
        section.note("isa", f"{_LESSER}={lesser} hides what the CPU can do", f"unset {_LESSER}")


def _by_numbers(cpuinfo: dict[str, str]) -> str | None:
    """An Arm CPU, which has no name."""
    if "CPU part" not in cpuinfo:
        return None
    return f"Arm, implementer {cpuinfo.get('CPU implementer', '?')}, part {cpuinfo['CPU part']}"


def _where(box: Box, flags: frozenset[str]) -> str:
    if box.is_container:
        return "in a container"
    return "in a virtual machine" if "hypervisor" in flags else "on bare metal"


def _num_cores(box: Box) -> int:
    """Cores that are there, each once, however many threads it runs; by package and number."""
    cores = set()
    for path in box.find("sys/devices/system/cpu/cpu[0-9]*/topology/core_id"):
        package = box.text(path.replace("core_id", "physical_package_id"))
        cores.add((package, box.text(path)))
    return len(cores) or len(box.cpus[0])


def _online(box: Box) -> str | None:
    return box.text("sys/devices/system/cpu/online") or None


def _kinds(box: Box) -> dict[str, str]:
    """Kinds of cores to their CPUs; none where all are of one kind."""
    kinds = {
        "performance": box.text("sys/devices/cpu_core/cpus"),
        "efficiency": box.text("sys/devices/cpu_atom/cpus"),
    }
    told = {kind: cpus for kind, cpus in kinds.items() if cpus}
    if told:
        return told
    # On arm64 the kernel rates each core, the fastest with 1024.
    rated: dict[int, list[int]] = {}
    try:
        online = parse_cpus(_online(box) or "")
    except ValueError:
        return {}
    for cpu in sorted(online):
        capacity = box.number(f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity")
        if capacity is not None:
            rated.setdefault(capacity, []).append(cpu)
    if len(rated) < 2:
        return {}
    return {f"capacity {capacity}": format_cpus(cpus) for capacity, cpus in sorted(rated.items())}
