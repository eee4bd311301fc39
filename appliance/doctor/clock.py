"""The knobs of `tune host`, as they are and as the profile wishes them, and caps on the clock."""

from __future__ import annotations

import os
import re

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.doctor.units import SERVICE, TUNE
from appliance.errors import ConfigError
from appliance.tune.host.cpu_list import parse_cpus
from appliance.tune.host.host import brief
from appliance.tune.host.plan import Skip, Step, plan
from appliance.tune.host.profile import OWN, Profile, read_profile

_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_MAX_PERCENT = "sys/devices/system/cpu/intel_pstate/max_perf_pct"
_ALLOWED = re.compile(r"^Cpus_allowed_list:\s*(\S+)", re.MULTILINE)
# These make every token slower; the others, a little and sometimes.
_SLOW = ("governor", "energy_performance_preference", "turbo", "cpu_affinity")


def examine(box: Box) -> Section:
    """A finding per knob. While no service runs, knobs are as the rest of the box wants them."""
    section = Section("clock")
    section.facts["policies"] = len(box.find(f"{_CPUFREQ}/policy*"))
    knobs: dict[str, list[Step | Skip]] = {}
    for one in plan(_profile(section, box), box.machine):
        knobs.setdefault(one.knob, []).append(one)
    for knob, entries in knobs.items():
        if knob == "cpu_affinity" and not box.unit_is(SERVICE, "active", "activating"):
            continue  # it is written for a unit, and there only while that runs
        steps = [one for one in entries if isinstance(one, Step)]
        skips = [one for one in entries if isinstance(one, Skip)]
        if skips:
            _examine_skip(section, skips[0], box)
        if steps:
            _examine_steps(section, knob, steps, box)
    _examine_affinity(section, knobs.get("cpu_affinity", []), box)
    _examine_caps(section, box)
    return section


def _profile(section: Section, box: Box) -> Profile:
    own = box.machine.root / OWN.relative_to("/")
    if not os.path.lexists(own):  # or out of this user's reach, which looks the same
        return read_profile(None)
    try:
        return read_profile(own)
    except ConfigError as error:
        if os.access(own, os.R_OK):
            section.problem("profile", str(error), f"put {OWN} right, or remove it")
        else:
            box.unreadable[str(OWN)] = "Permission denied"
        return read_profile(None)


def _examine_skip(section: Section, skip: Skip, box: Box) -> None:
    section.facts.setdefault(skip.knob, {"now": None, "wished": None, "why": skip.why})
    told = f"{skip.knob} left alone: {skip.why}"
    if skip.knob == "governor" and not section.facts["policies"]:
        section.note(skip.knob, told)
    elif skip.knob != "energy_performance_preference" or section.facts["policies"]:
        section.ok(skip.knob, told)


def _examine_steps(section: Section, knob: str, steps: list[Step], box: Box) -> None:
    values: list[str] = []
    wished = _word(knob, steps[0].value, steps[0])
    for step in steps:
        try:
            values.append(_word(knob, step.place.read(), step))
        except OSError as error:
            box.unreadable[step.place.address.partition(":")[2] or step.place.address] = (
                error.strerror or str(error)
            )
    section.facts[knob] = {"now": values, "wished": wished}
    others = sorted(set(values) - {wished})
    if not values:
        section.note(knob, f"{knob} cannot be read", "run doctor with sudo")
    elif not others:
        section.ok(knob, f"{knob} is {wished}")
    elif not box.is_in_use:
        _examine_idle(section, f"{knob} is {' and '.join(others)}", wished, knob, box)
    else:
        told = f"{knob} is {' and '.join(others)} while a service runs; wished: {wished}"
        by_unit = box.unit_is(TUNE, "active")
        remedy = f"sudo systemctl restart {TUNE}" if by_unit else _apply_by_hand()
        (section.problem if knob in _SLOW else section.note)(knob, told, remedy)


def _word(knob: str, value: str | None, step: Step) -> str:
    """A value as people say it: switches of turbo are files with 0 and 1, some upside down."""
    if knob == "turbo":
        is_inverted = step.place.address.endswith("no_turbo")
        return "on" if (value == "1") != is_inverted else "off"
    told = brief(value)
    return told.removeprefix("CPUAffinity=") if knob == "cpu_affinity" else told


def _examine_idle(section: Section, told: str, wished: str, knob: str, box: Box) -> None:
    if box.is_installed:
        section.ok(knob, f"{told}; {wished} while the service runs")
    else:
        section.note(knob, f"{told}; wished while a service runs: {wished}", _apply_by_hand())


def _apply_by_hand() -> str:
    return "sudo qwen-appliance tune host --apply"


def _examine_affinity(section: Section, entries: list[Step | Skip], box: Box) -> None:
    """Where the running service really is; a drop-in counts from its next start only."""
    pid = box.units[SERVICE].main_pid if box.is_installed else 0
    status = box.text(f"proc/{pid}/status") if pid else None
    match = _ALLOWED.search(status or "")
    section.facts["service_cpus"] = match[1] if match else None
    wishes = [_word(one.knob, one.value, one) for one in entries if isinstance(one, Step)]
    if match is None or not wishes:
        return
    told = f"the service runs on CPUs {match[1]}"
    if parse_cpus(match[1]) == parse_cpus(wishes[0]):
        section.ok("service_cpus", told)
    else:
        section.problem(
            "service_cpus",
            f"{told}; wished: {wishes[0]}",
            f"sudo systemctl restart {SERVICE}",
        )


def _examine_caps(section: Section, box: Box) -> None:
    """Limits that somebody else has set below what the CPU can do."""
    caps = []
    for policy in box.find(f"{_CPUFREQ}/policy*"):
        most = box.number(f"{policy}/cpuinfo_max_freq")
        allowed = box.number(f"{policy}/scaling_max_freq")
        if most and allowed and allowed < most:
            caps.append((allowed, most))
    section.facts["capped_khz"] = min(caps)[0] if caps else None
    if caps:
        allowed, most = min(caps)
        section.problem(
            "cap",
            f"the clock is capped at {allowed / 1e6:.1f} of {most / 1e6:.1f} GHz",
            "find who wrote scaling_max_freq (tlp, a power manager), and put it back",
        )
    percent = box.number(_MAX_PERCENT)
    if percent is not None and percent < 100:
        section.problem(
            "max_perf_pct",
            f"the clock is capped at {percent} % (intel_pstate/max_perf_pct)",
            f"echo 100 | sudo tee /{_MAX_PERCENT}",
        )
