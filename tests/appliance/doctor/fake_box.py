"""Boxes to be examined, made of files: an N100 as provisioning leaves it, and what can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.config import load_config
from appliance.doctor.bandwidth import Reading
from appliance.doctor.box import Box
from appliance.doctor.examination import examine
from appliance.doctor.finding import Finding, Level, Section
from appliance.doctor.measuring import Meter
from appliance.doctor.units import SERVICE, UNITS
from appliance.errors import ConfigError
from appliance.tune.host.host import apply
from appliance.tune.host.plan import Machine
from appliance.tune.host.profile import read_profile
from tests import fake_machine
from tests.appliance.tune.host.fake_tools import FakeTools
from tests.fake_machine import CPUS, write

FLAGS = "fpu sse2 sse4_2 avx avx2 fma sha_ni avx_vnni"
N100_BYTES_PER_S = 20e9


class FakeSystemd(FakeTools):
    """A manager that knows units by their properties, and the clock's state."""

    def __init__(self, *active: str) -> None:
        super().__init__(*active)
        self.units: dict[str, dict[str, str]] = {}
        self.ntp = "yes"

    def install(self, **of_service: str) -> None:
        """All units as `systemctl start qwen-appliance` leaves them; `of_service` changes its."""
        for name in UNITS:
            self.units[name] = {
                "LoadState": "loaded",
                "ActiveState": "inactive" if name.endswith(".socket") else "active",
                "SubState": "dead" if name.endswith(".socket") else "running",
                "UnitFileState": "enabled",
                "Result": "success",
                "NRestarts": "0",
                "NeedDaemonReload": "no",
                "StatusText": "",
            }
        self.units[SERVICE].update(of_service)

    def run(self, *command: str) -> str:
        if command[:2] == ("systemctl", "show"):
            absent = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"}
            blocks = [{"Id": name, **self.units.get(name, absent)} for name in command[3:]]
            return "\n\n".join("\n".join(f"{k}={v}" for k, v in one.items()) for one in blocks)
        if command == ("systemctl", "--version"):
            return "systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT\n"
        if command[0] == "timedatectl":
            return self.ntp + "\n"
        return super().run(*command)


def meter(
    bytes_per_s: float = N100_BYTES_PER_S,
    while_it_runs: Callable[[], None] = lambda: None,
    cpu_share: float = 0.97,
) -> Meter:
    """A measurement that takes no time."""

    def measure(cpus: frozenset[int], buffer_bytes: int, watch: Callable[[], None]) -> Reading:
        while_it_runs()
        watch()
        return Reading(bytes_per_s, cpu_share)

    return measure


@dataclass
class FakeBox:
    """A tree and its programs; `examine` looks at it."""

    root: Path
    num_cpus: int = 4
    tools: FakeSystemd = field(default_factory=FakeSystemd)
    settings: dict[str, str] = field(default_factory=dict)
    config_fault: ConfigError | None = None

    @property
    def machine(self) -> Machine:
        return Machine(self.root, self.tools, frozenset(range(self.num_cpus)))

    def tune(self) -> None:
        """Set every knob as the shipped profile wishes."""
        apply(read_profile(None), self.machine)

    def examine(self, how: Meter | None = None, *, checksums: bool = True) -> Findings:
        loaded = load_config(None, {}, self.settings, default_file=self.root / "none")
        box = Box(
            self.machine,
            loaded,
            {"HOME": str(self.root / "home")},
            meter=how or meter(),
            checksums=checksums,
            config_fault=self.config_fault,
        )
        return Findings(examine(box))


class Findings:
    """What was found, by id; facts by section."""

    def __init__(self, sections: list[Section]) -> None:
        self.sections = sections
        self.facts = {section.name: section.facts for section in sections}
        json.dumps(self.facts, allow_nan=False)

    def __getitem__(self, name: str) -> Finding:
        """The finding with this id, of which there must be one."""
        found = [one for one in self.all() if one.id == name]
        assert len(found) == 1, [one.id for one in self.all()]
        return found[0]

    def __contains__(self, name: str) -> bool:
        return any(one.id == name for one in self.all())

    def all(self) -> Iterable[Finding]:
        return [finding for section in self.sections for finding in section.findings]

    def level(self, name: str) -> str:
        return self[name].level.value

    def problems(self) -> list[str]:
        return [one.id for one in self.all() if one.level is Level.PROBLEM]


def system_files(root: Path, *, cpu: str, flags: str, available_kb: int = 7_000_000) -> None:
    write(
        root,
        {
            "proc/cpuinfo": (
                f"processor\t: 0\nmodel name\t: {cpu}\nflags\t\t: {flags}\n\nprocessor\t: 1"
            ),
            "proc/meminfo": (
                f"MemTotal:        7640000 kB\nMemAvailable:    {available_kb} kB\n"
                "SwapTotal:             0 kB\nSwapFree:              0 kB"
            ),
            "proc/uptime": "3600.00 12000.00",
            "proc/sys/kernel/osrelease": "6.1.0-18-amd64",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
        },
    )


def heat(root: Path, num_cpus: int, *, celsius: float = 52, times: int = 0, ms: int = 0) -> None:
    for cpu in range(num_cpus):
        for part in ("core", "package"):
            counters = f"{CPUS}/cpu{cpu}/thermal_throttle/{part}_throttle"
            write(root, {f"{counters}_count": str(times), f"{counters}_total_time_ms": str(ms)})
    zone = "sys/class/thermal/thermal_zone0"
    write(root, {f"{zone}/type": "x86_pkg_temp", f"{zone}/temp": str(int(celsius * 1000))})
    write(root, {f"{zone}/trip_point_0_type": "passive", f"{zone}/trip_point_0_temp": "0"})


def n100(tmp_path: Path) -> FakeBox:
    """Provisioned, its knobs set, its service said to run."""
    root = fake_machine.n100(tmp_path / "n100")
    system_files(root, cpu="Intel(R) N100", flags=FLAGS)
    heat(root, 4)
    for cpu in range(4):
        policy = f"{CPUS}/cpufreq/policy{cpu}"
        write(
            root, {f"{policy}/scaling_max_freq": "3400000", f"{policy}/scaling_cur_freq": "2900000"}
        )
    write(root, {"sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw": "15000000"})
    box = FakeBox(root)
    box.tools.install()
    box.tune()
    return box


def virtual(tmp_path: Path) -> FakeBox:
    """Two CPUs of a virtual machine: no clock, counters or sensors, and nothing installed."""
    root = fake_machine.virtual(tmp_path / "virtual")
    system_files(root, cpu="AMD EPYC", flags=f"{FLAGS} hypervisor avx512f avx512_vnni")
    return FakeBox(root, num_cpus=2)
