"""All sections in order; one that fails does not keep the others from being told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.doctor import (
    calibration,
    clock,
    cpu,
    decode,
    disk,
    heat,
    memory,
    model,
    service,
    software,
    time_of_day,
    units,
)
from appliance.doctor.box import Box
from appliance.doctor.finding import Section

Examiner = Callable[[Box], Section]
SECTIONS: dict[str, Examiner] = {
    "software": software.examine,
    "cpu": cpu.examine,
    "clock": clock.examine,
    "decode": decode.examine,
    "heat": heat.examine,
    "memory": memory.examine,
    "disk": disk.examine,
    "time": time_of_day.examine,
    "model": model.examine,
    "calibration": calibration.examine,
    "units": units.examine,
    "service": service.examine,
}


def examine(box: Box) -> list[Section]:
    """Every section, and one more for what could not be read."""
    sections = [_guarded(name, examiner, box) for name, examiner in SECTIONS.items()]
    files = Section("files", facts={"unreadable": dict(sorted(box.unreadable.items()))})
    for path, reason in sorted(box.unreadable.items()):
        files.note("unreadable", f"{path} could not be read: {reason}", "run doctor with sudo")
    return [*sections, files]


def _guarded(name: str, examiner: Examiner, box: Box) -> Section:
    try:
        return examiner(box)
    # Boxes differ in ways that nobody foresaw, and the rest of the examination is still worth it.
    except Exception as error:
        section = Section(name)
        told = " ".join(f"{type(error).__name__}: {error}".split())
        section.note("failed", f"this part could not be examined: {told}", "please report it")
        return section


def worst(sections: Sequence[Section]) -> str:
    """The level of the worst finding."""
    levels = [finding.level.value for section in sections for finding in section.findings]
    return next((level for level in ("problem", "note") if level in levels), "ok")
