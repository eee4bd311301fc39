"""The profile: which knob is to have which value, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.config.yaml_file import read_yaml
from appliance.errors import ConfigError
from appliance.tune.host.cpu_list import parse_cpus

SHIPPED = Path(__file__).with_name("profile.yaml")
OWN = Path("/etc/qwen-appliance/tune.yaml")


@dataclass(frozen=True, slots=True)
class Wish:
    """One knob's entry; `value` None leaves the knob alone."""

    value: str | None
    reason: str


Profile = dict[str, Wish]


def read_profile(own: Path | None) -> Profile:
    """The shipped profile, with the knobs that `own` names changed. Raises `ConfigError`."""
    profile = _read(SHIPPED, "shipped")
    if own is None:
        return profile
    for name, wish in _read(own, "profile").items():
        if name not in profile:
            raise ConfigError(name, wish.value, f"no knob; known: {', '.join(profile)}", str(own))
        profile[name] = wish
    return profile


def _read(path: Path, source: str) -> Profile:
    return {
        str(name): _wish(str(name), entry, path) for name, entry in read_yaml(path, source).items()
    }


def _wish(name: str, entry: Any, path: Path) -> Wish:
    if not isinstance(entry, dict) or not {"value"} <= entry.keys() <= {"value", "reason"}:
        raise ConfigError(name, entry, "expected `value:` and `reason:` below it", str(path))
    value, reason = entry["value"], entry.get("reason", "chosen in " + str(path))
    # YAML reads on, off and yes as truth values.
    if isinstance(value, bool):
        value = "on" if value else "off"
    if value is not None and type(value) not in (str, int):
        raise ConfigError(name, value, "expected a word, a number or null", str(path))
    wish = Wish(None if value is None else str(value), str(reason).strip())
    _check(name, wish.value, path)
    return wish


def _check(name: str, value: str | None, path: Path) -> None:
    """What can be known to be wrong without looking at the machine."""
    if value is None:
        return
    if name == "turbo" and value not in ("on", "off"):
        raise ConfigError(name, value, "expected on or off", str(path))
    if name == "swappiness" and not (value.isdecimal() and int(value) <= 200):
        raise ConfigError(name, value, "expected a whole number from 0 to 200", str(path))
    if name == "cpu_affinity" and value != "auto":
        try:
            parse_cpus(value)
        except ValueError as error:
            raise ConfigError(name, value, f"{error}, or auto", str(path)) from None
