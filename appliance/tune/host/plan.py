"""From the profile to what is to be done on this machine, knob by knob, and what is not and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.tune.host.cpu_list import format_cpus, parse_cpus
from appliance.tune.host.places import (
    DropIn,
    KernelFile,
    Place,
    PowerProfile,
    Tools,
    TunedProfile,
)
from appliance.tune.host.profile import Profile
from appliance.tune.host.topology import choose_cpus

AFFINITY = "run/systemd/system/qwen-appliance.service.d/50-cpu-affinity.conf"
_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_NO_TURBO = "sys/devices/system/cpu/intel_pstate/no_turbo"
_BOOST = f"{_CPUFREQ}/boost"
_HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"
_SWAPPINESS = "proc/sys/vm/swappiness"
# Two daemons that set the same knobs, and would set them back: they are told instead.
_TUNED, _TUNED_PROFILE = "tuned.service", "throughput-performance"
_POWER, _POWER_PROFILE = "power-profiles-daemon.service", "performance"
_KNOBS_OF = {
    _TUNED: {
        *("governor", "energy_performance_preference", "turbo"),
        *("transparent_hugepages", "swappiness"),
    },
    _POWER: {"governor", "energy_performance_preference", "turbo"},
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What is tuned: the tree at `root`, its programs, and the CPUs this process may use."""

    root: Path
    tools: Tools
    allowed_cpus: frozenset[int]

    def has(self, path: str) -> bool:
        """Whether the tree has this file or directory."""
        return (self.root / path).exists()

    def words(self, path: str) -> list[str]:
        """The words of a file, without brackets; none where there is no such file."""
        try:
            text = (self.root / path).read_text()
        except OSError:
            return []
        return text.replace("[", "").replace("]", "").split()


@dataclass(frozen=True, slots=True)
class Step:
    """`place` is to hold `value`; `why` says what was chosen by itself, if anything."""

    knob: str
    place: Place
    value: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """A knob that is left alone, and why."""

    knob: str
    why: str


def plan(profile: Profile, machine: Machine) -> list[Step | Skip]:
    """What to do, in the order in which it must be done: the governor before its preference."""
    daemon = next((unit for unit in (_TUNED, _POWER) if machine.tools.is_active(unit)), None)
    steps: list[Step | Skip] = []
    for knob, wish in profile.items():
        if wish.value is None:
            steps.append(Skip(knob, "the profile says so"))
        elif daemon and knob in _KNOBS_OF[daemon]:
            steps.append(_told(knob, daemon, machine.tools))
        else:
            steps += _PLANNERS[knob](knob, wish.value, profile, machine)
    return steps


def _told(knob: str, daemon: str, tools: Tools) -> Step | Skip:
    if knob != "governor":
        return Skip(knob, f"{daemon} sets it")
    if daemon == _TUNED:
        return Step(knob, TunedProfile(tools), _TUNED_PROFILE, f"{daemon} runs, so it is told")
    return Step(knob, PowerProfile(tools), _POWER_PROFILE, f"{daemon} runs, so it is told")


def _policies(machine: Machine) -> list[str]:
    found = (machine.root / _CPUFREQ).glob("policy*")
    numbered = sorted(found, key=lambda path: int(path.name.removeprefix("policy")))
    return [f"{_CPUFREQ}/{path.name}" for path in numbered]


def _each_policy(
    knob: str, value: str, machine: Machine, file: str, choices: str
) -> Iterator[Step | Skip]:
    """A step for every policy that can have the value."""
    policies = _policies(machine)
    if not policies:
        yield Skip(knob, "no control over clock rates here, as in most virtual machines")
    for policy in policies:
        offered = machine.words(f"{policy}/{choices}")
        if value in offered:
            yield Step(knob, KernelFile(machine.root, f"{policy}/{file}"), value)
        else:
            name = policy.rpartition("/")[2]
            yield Skip(knob, f"{name} offers {' '.join(offered) or 'no choice'}, not {value}")


def _governor(knob: str, value: str, _: Profile, machine: Machine) -> Iterator[Step | Skip]:
    return _each_policy(knob, value, machine, "scaling_governor", "scaling_available_governors")


def _preference(knob: str, value: str, profile: Profile, machine: Machine) -> Iterator[Step | Skip]:
    governor = profile["governor"].value
    policies = _policies(machine)
    for policy in policies[:1]:
        if governor not in machine.words(f"{policy}/scaling_available_governors"):
            governor = "".join(machine.words(f"{policy}/scaling_governor"))
    if policies and governor == "performance":
        # intel_pstate answers any write but its own value with EBUSY.
        return iter([Skip(knob, "the performance governor sets it itself")])
    choices = "energy_performance_available_preferences"
    return _each_policy(knob, value, machine, knob, choices)


def _turbo(knob: str, value: str, _: Profile, machine: Machine) -> Iterator[Step | Skip]:
    is_on = value == "on"
    if machine.has(_NO_TURBO):
        yield Step(knob, KernelFile(machine.root, _NO_TURBO), "0" if is_on else "1")
    elif machine.has(_BOOST):
        yield Step(knob, KernelFile(machine.root, _BOOST), "1" if is_on else "0")
    else:
        yield Skip(knob, "no switch for it here")


def _huge_pages(knob: str, value: str, _: Profile, machine: Machine) -> Iterator[Step | Skip]:
    offered = machine.words(_HUGE_PAGES)
    if value in offered:
        yield Step(knob, KernelFile(machine.root, _HUGE_PAGES), value)
    else:
        yield Skip(knob, f"the kernel offers {' '.join(offered) or 'none'}, not {value}")


def _swappiness(knob: str, value: str, _: Profile, machine: Machine) -> Iterator[Step | Skip]:
    if machine.has(_SWAPPINESS):
        yield Step(knob, KernelFile(machine.root, _SWAPPINESS), value)
    else:
        yield Skip(knob, "no swap in this kernel")


def _affinity(knob: str, value: str, _: Profile, machine: Machine) -> Iterator[Step | Skip]:
    if not machine.has("run/systemd/system"):
        yield Skip(knob, "systemd does not run here, and it is written for its unit")
        return
    if value == "auto":
        cpus, why = choose_cpus(machine.root, machine.allowed_cpus)
    else:
        cpus, why = parse_cpus(value) & machine.allowed_cpus, "from the profile"
    if not cpus:
        allowed = format_cpus(machine.allowed_cpus)
        yield Skip(knob, f"none of {value} is among the usable {allowed}")
        return
    told = f"# Written by `qwen-appliance tune host --apply`: {why}.\n"
    text = f"{told}[Service]\nCPUAffinity={format_cpus(cpus)}\n"
    yield Step(knob, DropIn(machine.root, AFFINITY, machine.tools), text, why)


_PLANNERS = {
    "governor": _governor,
    "energy_performance_preference": _preference,
    "turbo": _turbo,
    "transparent_hugepages": _huge_pages,
    "swappiness": _swappiness,
    "cpu_affinity": _affinity,
}
