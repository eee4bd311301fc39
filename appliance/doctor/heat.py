"""Heat and power: whether they slow this box down."""

from __future__ import annotations

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.doctor.measuring import Measured
from appliance.doctor.throttling import Throttling, read_throttling

_ZONES = "sys/class/thermal/thermal_zone*"
_POWER_LIMIT = "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw"
_NO_TURBO = "sys/devices/system/cpu/intel_pstate/no_turbo"
_COOLER = "free the vents, clean the fan, give it air; or let tokens take longer in summer"
_HOT_C = 90.0
_NEAR_C = 5.0  # to the temperature at which the kernel acts
_PLAUSIBLE_C = (40.0, 130.0)  # firmware also writes 0 and 255 into trip points
_OFTEN = 0.01  # of the time since boot
_SLOW = 0.7  # of the clock that it could have


def examine(box: Box) -> Section:
    """Findings of this section; a virtual machine has neither counters nor sensors."""
    section = Section("heat")
    measured = box.measured
    now = measured.after if isinstance(measured, Measured) else read_throttling(box.machine.root)
    uptime_s = _uptime_s(box)
    section.facts.update(
        throttled_times=now.num_times, throttled_ms=now.milliseconds, uptime_s=uptime_s
    )
    if isinstance(measured, Measured) and (now.num_times or 0) > (measured.before.num_times or 0):
        section.problem("throttling", "heat slowed the CPU down within one second of work", _COOLER)
    else:
        _examine_past(section, now, uptime_s)
    _examine_temperatures(section, box)
    _examine_clock(section, box)
    return section


def _examine_past(section: Section, now: Throttling, uptime_s: float | None) -> None:
    if now.num_times is None:
        section.note("throttling", "no throttling counters here, as in most virtual machines")
    elif now.num_times == 0:
        section.ok("throttling", "never throttled since boot")
    elif now.milliseconds is None or not uptime_s:
        section.note("throttling", f"throttled {now.num_times} times since boot", _COOLER)
    else:
        share = now.milliseconds / 1000 / uptime_s
        told = f"throttled {now.num_times} times since boot, {share:.1%} of the time"
        if share > _OFTEN:
            section.problem("throttling", told, _COOLER)
        else:
            section.note("throttling", told)


def _examine_temperatures(section: Section, box: Box) -> None:
    zones = {}
    for zone in box.find(_ZONES):
        milli = box.number(f"{zone}/temp")
        if milli is not None:
            zones[zone.rpartition("/")[2]] = (milli / 1000, _limit_c(box, zone), zone)
    section.facts["temperatures_c"] = {
        f"{name} {box.text(f'{zone}/type') or ''}".strip(): celsius
        for name, (celsius, _, zone) in zones.items()
    }
    if not zones:
        section.note("temperature", "no temperature sensors here, as in most virtual machines")
        return
    celsius, limit, zone = min(zones.values(), key=lambda one: one[1] - one[0])
    told = f"{box.text(f'{zone}/type') or zone}: {celsius:.0f} °C, limit {limit:.0f} °C"
    if celsius > limit - _NEAR_C:
        section.problem("temperature", told, _COOLER)
    else:
        section.ok("temperature", told)


def _limit_c(box: Box, zone: str) -> float:
    """The lowest temperature at which the kernel slows the zone down or stops the box."""
    trips = []
    for path in box.find(f"{zone}/trip_point_*_temp"):
        milli = box.number(path)
        kind = box.text(path.removesuffix("temp") + "type")
        if milli is not None and kind in ("passive", "hot", "critical"):
            trips.append(milli / 1000)
    low, high = _PLAUSIBLE_C
    return min((trip for trip in trips if low < trip < high), default=_HOT_C + _NEAR_C)


def _examine_clock(section: Section, box: Box) -> None:
    measured, watts = box.measured, box.number(_POWER_LIMIT)
    section.facts["power_limit_w"] = None if watts is None else watts / 1e6
    khz = measured.clock_khz if isinstance(measured, Measured) else None
    section.facts["clock_under_load_khz"] = khz
    most = _most_khz(box)
    if khz is None or most is None:
        return
    told = f"under load the fastest core ran at {khz / 1e6:.1f} of {most / 1e6:.1f} GHz"
    if watts is not None:
        told += f", long-term power limit {watts / 1e6:.0f} W"
    if khz < _SLOW * most and box.number(_NO_TURBO) != 1:
        section.note("clock", told, "cool it, or raise the power limit (PL1) in the firmware")
    else:
        section.ok("clock", told)


def _most_khz(box: Box) -> int | None:
    """What the fastest CPU that the service uses may run at."""
    limits = []
    for cpu in box.cpus[0]:
        cpufreq = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        known = [box.number(f"{cpufreq}/{n}") for n in ("cpuinfo_max_freq", "scaling_max_freq")]
        if found := [khz for khz in known if khz]:
            limits.append(min(found))
    return max(limits, default=None)


def _uptime_s(box: Box) -> float | None:
    try:
        return float((box.text("proc/uptime") or "").split()[0])
    except (ValueError, IndexError):
        return None
