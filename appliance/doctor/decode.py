"""The decode floor: the best time per token that this box's memory allows."""

from __future__ import annotations

import os

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.doctor.measuring import Measured
from appliance.doctor.weight_bytes import weight_bytes_per_token
from appliance.errors import ModelDirError

BUDGET_MS = 30.0
"""What a token may take (README of the project)."""
_USUAL = 1.5  # a decode step, in floors: what good implementations reach
_UNDISTURBED = 0.85  # of the CPUs' time; passes end at the slowest core, so 1 is never reached


def examine(box: Box) -> Section:
    """A token needs all weights once, so bytes / bandwidth is a bound that no setting lowers."""
    section = Section("decode")
    section.facts.update(
        bandwidth_bytes_per_s=None,
        weight_bytes=_weight_bytes(section, box),
        floor_ms=None,
        budget_ms=BUDGET_MS,
        cpu_share=None,
        busiest=None,
        load_average=_load(),
    )
    measured = box.measured
    if not isinstance(measured, Measured):
        section.note("bandwidth", f"memory bandwidth not measured: {measured.why}")
        return section
    reading = measured.reading
    section.facts["bandwidth_bytes_per_s"] = round(reading.bytes_per_s)
    section.facts["cpu_share"] = round(reading.cpu_share, 3)
    section.facts["busiest"] = measured.busiest
    is_disturbed = reading.cpu_share < _UNDISTURBED
    told = f"{len(box.cpus[0])} CPUs read {reading.bytes_per_s / 1e9:.1f} GB/s of memory"
    if is_disturbed:
        section.note(
            "bandwidth",
            f"{told}, but had only {reading.cpu_share:.0%} of their time; most of the rest went "
            f"to {measured.busiest or 'others, or a quota is set'}",
            "measure again when the box is quiet",
        )
    else:
        section.ok("bandwidth", told)
    if weight_bytes := section.facts["weight_bytes"]:
        _examine_floor(section, weight_bytes, reading.bytes_per_s, is_disturbed)
    return section


def _examine_floor(
    section: Section, weight_bytes: int, bytes_per_s: float, is_disturbed: bool
) -> None:
    floor_ms = weight_bytes / bytes_per_s * 1000
    section.facts["floor_ms"] = round(floor_ms, 2)
    told = (
        f"{weight_bytes / 1e6:.0f} MB of weights per token: at best {floor_ms:.1f} ms per token, "
        f"of a budget of {BUDGET_MS:g} ms"
    )
    smaller = "a smaller model, or the same with build-model.sh --precision int4"
    if floor_ms > BUDGET_MS and is_disturbed:
        section.note("floor", f"{told}, if the box were always as busy")
    elif floor_ms > BUDGET_MS:
        section.problem(
            "floor",
            told,
            f"{smaller}; memory at its full speed in the firmware, and all its channels filled",
        )
    elif floor_ms * _USUAL > BUDGET_MS:
        section.note("floor", f"{told}; a step takes {_USUAL:g} times that or more", smaller)
    else:
        section.ok("floor", told)


def _weight_bytes(section: Section, box: Box) -> int | None:
    model = box.model
    if model.directory is None or model.verified is None:
        return None
    try:
        return weight_bytes_per_token(model.directory)
    except (OSError, ModelDirError) as error:
        section.note("weights", f"how much a token reads is not known: {error}")
        return None


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
