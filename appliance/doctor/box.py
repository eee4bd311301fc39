"""The box under examination: its files, and what several sections need to know of it."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from appliance.config import LoadedConfig
from appliance.doctor.health import Health, ask
from appliance.doctor.measuring import Measured, Meter, Unmeasured, measure
from appliance.doctor.served_model import ServedModel, look_at
from appliance.doctor.units import SERVICE, SOCKET, TUNE, Unit, read_units
from appliance.errors import ConfigError
from appliance.tune.host.plan import Machine
from appliance.tune.host.topology import choose_cpus

_CACHE_OF_UNIT = "var/cache/qwen-appliance"
_CONTAINERS = ("run/systemd/container", ".dockerenv", "run/.containerenv")
# Files that are there and have nothing to say: a sensor that is switched off, for one.
_SILENT = (errno.ENOENT, errno.ENOTDIR, errno.ENODATA, errno.EAGAIN, errno.ENODEV)


@dataclass
class Box:
    """`machine` tells where its tree and programs are, `loaded` what the service is to do.

    `config_fault` says why `loaded` is not what the files say. `meter` None: nothing is measured.
    What could not be read although it is there is kept in `unreadable`, path to reason.
    """

    machine: Machine
    loaded: LoadedConfig
    env: Mapping[str, str]
    meter: Meter | None = None
    checksums: bool = True
    config_fault: ConfigError | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str | None:
        """What the file below the root holds, stripped; None without one, or if it cannot be read,
        which is remembered."""
        try:
            return (self.machine.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            if error.errno not in _SILENT:
                self.unreadable[f"/{path}"] = error.strerror or str(error)
            return None

    def number(self, path: str) -> int | None:
        """The whole number that the file holds."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def find(self, pattern: str) -> list[str]:
        """Paths below the root that fit the pattern, sorted."""
        root = self.machine.root
        return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))

    @cached_property
    def cpus(self) -> tuple[frozenset[int], str]:
        """The CPUs that the service uses, and why these."""
        return choose_cpus(self.machine.root, self.machine.allowed_cpus)

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The service's units by name; empty where systemd does not run or does not answer."""
        if not self.machine.has("run/systemd/system"):
            return {}
        try:
            return read_units(self.machine.tools)
        except OSError as error:
            self.unreadable["systemctl show"] = str(error)
            return {}

    def unit_is(self, name: str, *states: str) -> bool:
        """Whether that unit is in one of these states (`active`, `failed`, ...)."""
        return name in self.units and self.units[name].active_state in states

    @property
    def is_installed(self) -> bool:
        """Whether systemd knows the service."""
        return SERVICE in self.units and self.units[SERVICE].is_loaded

    @cached_property
    def health(self) -> Health:
        """What answers at the service's address. A socket that waits for a connection to start the
        service is left in peace."""
        starts_it = self.unit_is(SOCKET, "active") and not self.unit_is(SERVICE, "active")
        if starts_it:
            return Health("not asked", None, f"the first connection to {SOCKET} would start it")
        return ask(self.loaded.config.server)

    @cached_property
    def is_in_use(self) -> bool:
        """Whether a service runs here, so that the machine should be set for it."""
        by_unit = self.unit_is(SERVICE, "active", "activating") or self.unit_is(TUNE, "active")
        return by_unit or self.health.status in ("ready", "loading")

    @cached_property
    def model(self) -> ServedModel:
        """The model directory that the settings name, looked at."""
        return look_at(self.loaded.config.model.dir, checksums=self.checksums)

    @cached_property
    def measured(self) -> Measured | Unmeasured:
        """Memory's speed, and what the clock did meanwhile."""
        return measure(self.meter, self.machine.root, self.cpus[0])

    @property
    def is_container(self) -> bool:
        """Whether kernel and clock are another system's."""
        return any(self.machine.has(path) for path in _CONTAINERS)

    @property
    def cache_dir(self) -> Path | None:
        """The compile cache's directory when the settings name none: the unit's, if it is here."""
        return self.machine.root / _CACHE_OF_UNIT if self.is_installed else None
