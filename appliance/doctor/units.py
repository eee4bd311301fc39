"""The service's units: whether systemd has them, runs them, and will start them at boot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.doctor.finding import Section
from appliance.tune.host.places import Tools

if TYPE_CHECKING:
    from appliance.doctor.box import Box

SERVICE = "qwen-appliance.service"
STAGE = "qwen-appliance-stage.service"
TUNE = "qwen-appliance-tune.service"
SOCKET = "qwen-appliance.socket"
RAM_DISK = r"run-qwen\x2dappliance-model.mount"
UNITS = (SERVICE, STAGE, TUNE, RAM_DISK, SOCKET)
_DESKTOP = "display-manager.service"
_PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result"),
    *("NRestarts", "MainPID", "NeedDaemonReload", "StatusText"),
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd knows of a unit, in its own words; `main_pid` 0: no process."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    file_state: str
    result: str
    num_restarts: int
    main_pid: int
    needs_reload: bool
    status_text: str

    @property
    def is_loaded(self) -> bool:
        return self.load_state == "loaded"


def read_units(tools: Tools) -> dict[str, Unit]:
    """The units by name, those too that are not there. Raises `OSError`."""
    told = tools.run("systemctl", "show", f"--property={','.join(_PROPERTIES)}", *UNITS)
    units = {}
    for block in told.split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines())
        values = {name: value for name, _, value in pairs}
        if "Id" in values:
            units[values["Id"]] = _unit(values)
    return units


def _unit(values: dict[str, str]) -> Unit:
    def text(name: str) -> str:
        return values.get(name, "")

    def number(name: str) -> int:
        return int(text(name)) if text(name).isdecimal() else 0

    return Unit(
        name=text("Id"),
        load_state=text("LoadState"),
        active_state=text("ActiveState"),
        sub_state=text("SubState"),
        file_state=text("UnitFileState"),
        result=text("Result"),
        num_restarts=number("NRestarts"),
        main_pid=number("MainPID"),
        needs_reload=text("NeedDaemonReload") == "yes",
        status_text=text("StatusText"),
    )


def examine(box: Box) -> Section:
    """A finding per unit that is there, and one for all that is not."""
    section = Section("units")
    section.facts["systemd"] = box.machine.has("run/systemd/system")
    section.facts["units"] = {
        unit.name: {
            "load": unit.load_state,
            "active": unit.active_state,
            "sub": unit.sub_state,
            "enabled": unit.file_state or None,
            "result": unit.result,
            "restarts": unit.num_restarts,
        }
        for unit in box.units.values()
    }
    if not section.facts["systemd"]:
        section.note("systemd", "systemd does not run here: nothing starts or watches the service")
    elif not box.units:
        section.note("systemd", "systemctl does not answer", "run doctor with sudo")
    elif not box.is_installed:
        section.note(
            "installed",
            "the units are not installed: nothing starts the service at boot",
            "sudo ./provisioning/provision.sh",
        )
    for unit in box.units.values():
        if unit.is_loaded:
            _examine_one(section, unit)
    if box.is_installed and box.machine.tools.is_active(_DESKTOP):
        section.note(
            "desktop",
            "a desktop runs beside the service and takes memory and its bandwidth",
            "sudo systemctl set-default multi-user.target, then reboot",
        )
    return section


def _examine_one(section: Section, unit: Unit) -> None:
    name, what = unit.name, f"{unit.name} is {unit.active_state} ({unit.sub_state})"
    if unit.active_state == "failed":
        section.problem(
            name,
            f"{what}: {unit.result}",
            f"journalctl -u {name} -n 50 says why; then sudo systemctl restart {SERVICE}",
        )
    elif name == SERVICE and unit.active_state == "inactive":
        section.note(name, what, f"sudo systemctl start {SERVICE}")
    elif name == SERVICE and unit.active_state != "active":
        section.note(name, f"{what}: {unit.status_text or 'no word from it yet'}")
    elif name != SOCKET or unit.active_state != "inactive":  # which is optional
        told = f": {unit.status_text}" if unit.status_text else ""
        section.ok(name, what + told)
    if name == SERVICE and unit.file_state == "disabled":
        section.note("boot", "it does not start at boot", f"sudo systemctl enable {SERVICE}")
    if unit.num_restarts:
        section.note(
            "restarts",
            f"{name} was restarted {unit.num_restarts} times since it was started by hand",
            f"journalctl -u {name} -p warning says why",
        )
    if unit.needs_reload:
        section.note(
            "reload",
            f"{name} changed on disk after systemd read it",
            "sudo systemctl daemon-reload",
        )
