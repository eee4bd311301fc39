"""Memory and swap: room for the service, and what may push its weights out."""

from __future__ import annotations

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.doctor.memory_limit import memory_limit
from appliance.meminfo import read_meminfo
from appliance.model_dir import Manifest
from appliance.stage.staging import SERVICE_BYTES

_LAST_BYTES = 128 << 20


def examine(box: Box) -> Section:
    """Findings of this section."""
    section = Section("memory")
    try:
        told = read_meminfo(box.machine.root)
    except OSError as error:
        section.note("ram", f"not known: {error}")
        return section
    total, available = told["MemTotal"], told["MemAvailable"]
    swap, limit = told.get("SwapTotal", 0), memory_limit(box.machine.root)
    swap_used = swap - told.get("SwapFree", swap)
    section.facts.update(
        total_bytes=total,
        available_bytes=available,
        limit_bytes=limit,
        swap_total_bytes=swap,
        swap_used_bytes=swap_used,
    )
    _examine_room(section, total, available, limit, box)
    if not swap:
        section.ok("swap", "no swap")
    else:
        section.note(
            "swap",
            f"swap is on, {_gb(swap_used)} of {_gb(swap)} used: a token whose weights are in it "
            "waits for the disk",
            "sudo swapoff -a, and take it out of /etc/fstab; or leave vm.swappiness low",
        )
    return section


def _examine_room(
    section: Section, total: int, available: int, limit: int | None, box: Box
) -> None:
    told = f"{_gb(total)}, {_gb(available)} available"
    room = available
    if limit is not None and limit < total:
        told += f", this container or session may use {_gb(limit)}"
        room = min(available, limit)
    manifest = box.model.manifest
    if box.is_in_use and room < _LAST_BYTES:
        section.problem(
            "ram", f"{told}: the kernel may soon end a program", "see who takes it: top -o %MEM"
        )
    elif manifest is None or box.is_in_use:
        section.ok("ram", told)
    else:
        _examine_need(section, told, room, manifest)


def _examine_need(section: Section, told: str, room: int, manifest: Manifest) -> None:
    """Before a start: what the service and the copy of its model will take."""
    model = sum(entry.size_bytes for entry in manifest.files.values())
    needed = model + SERVICE_BYTES
    if room < needed:
        section.problem(
            "ram",
            f"{told}; the service needs about {_gb(needed)}",
            "stop what else takes memory, or give it more; or a smaller model, --precision int4",
        )
    elif room < needed + model:
        section.note("ram", f"{told}: enough to serve, but not for a copy in the RAM disk")
    else:
        section.ok("ram", told)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
