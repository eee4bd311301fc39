"""The service as clients find it: settings, API keys, address, and what answers there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from appliance.access.key_file import read_keys
from appliance.access.place import with_key_file
from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.doctor.health import free_or_why
from appliance.doctor.port_owner import port_owner
from appliance.doctor.units import SERVICE
from appliance.errors import ConfigError
from appliance.listener import check_exposure

_KEYS_OF_UNIT = "etc/credstore/qwen-appliance.api-keys"
_LOG = f"journalctl -u {SERVICE} -n 50"


def examine(box: Box) -> Section:
    """Findings of this section."""
    section = Section("service")
    server = box.loaded.config.server
    section.facts.update(
        config_file=str(box.loaded.file) if box.loaded.file else None,
        host=server.host,
        port=server.port,
        port_owner=None,
        health=box.health.kind,
        status=box.health.status,
    )
    if box.config_fault is not None:
        _examine_fault(section, box.config_fault)
    _examine_keys(section, box)
    _EXAMINERS[box.health.kind](section, box)
    return section


def _examine_fault(section: Section, fault: ConfigError) -> None:
    if fault.key == "file" and not os.access(str(fault.value), os.R_OK) and _exists(fault.value):
        section.note("settings", f"{fault}; doctor took the defaults", "run doctor with sudo")
    else:
        section.problem(
            "settings", f"{fault}; doctor took the defaults", "qwen-appliance config shows settings"
        )


def _exists(path: object) -> bool:
    return os.path.lexists(str(path)) or not os.access(Path(str(path)).parent, os.X_OK)


def _examine_keys(section: Section, box: Box) -> None:
    path = _keys_file(box)
    section.facts.update(api_keys_file=str(path) if path else None, api_keys=None)
    if path is None:
        _examine_exposure(section, box)
        return
    try:
        names = [record.name for record in read_keys(path)]
    except PermissionError:
        section.note("keys", f"{path} is out of this user's reach", "run doctor with sudo")
        return
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        section.problem("keys", f"{path} cannot be used: {told}", f"put it right, or: {_add(box)}")
        return
    section.facts["api_keys"] = len(names)
    if names:
        section.ok("keys", f"API keys in {path}: {', '.join(names)}")
    else:
        section.problem(
            "keys",
            f"{path} holds no key, so the service will not start",
            _add(box),
        )


def _keys_file(box: Box) -> Path | None:
    """Where the keys are, as far as this user can tell: the unit's credential where the units are
    installed, as it does not see anybody's home."""
    if not box.is_installed:
        return with_key_file(box.loaded, box.env).config.server.api_keys_file
    if (named := box.loaded.config.server.api_keys_file) is not None:
        return named
    credential = box.machine.root / _KEYS_OF_UNIT
    is_hidden = credential.parent.is_dir() and not os.access(credential.parent, os.X_OK)
    return credential if is_hidden or credential.exists() else None


def _add(box: Box) -> str:
    """How to make a key where this service looks for it."""
    if box.is_installed and box.loaded.config.server.api_keys_file is None:
        return f"sudo qwen-appliance key add NAME --file /{_KEYS_OF_UNIT}; restart the service"
    return "qwen-appliance key add NAME"


def _examine_exposure(section: Section, box: Box) -> None:
    server = box.loaded.config.server
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        check_exposure(server, str(found[0][4][0]), "server.host", server.host, box.env)
    except ConfigError as error:
        section.problem("keys", str(error), _add(box))
    except (OSError, UnicodeError) as error:
        section.problem("host", f"server.host {server.host}: {error}", "set an address of this box")
    else:
        open_to_all = server.allow_no_key and server.host not in ("127.0.0.1", "::1", "localhost")
        if open_to_all:
            section.note(
                "keys",
                "no API keys: everybody who reaches this box may use it (server.allow_no_key)",
                _add(box),
            )
        else:
            section.ok("keys", "no API keys, and only this machine can reach the service")


def _ours(section: Section, box: Box) -> None:
    told = f"port {box.loaded.config.server.port}: {box.health.detail}"
    if box.health.status == "ready":
        section.ok("health", told)
    elif box.health.status == "failed":
        section.problem("health", told, f"sudo systemctl restart {SERVICE}; {_LOG}")
    else:
        section.note("health", told, "ask again in a minute")


def _nobody(section: Section, box: Box) -> None:
    server = box.loaded.config.server
    if box.unit_is(SERVICE, "active"):
        section.problem(
            "health",
            f"{SERVICE} runs, but nobody answers at {server.host}:{server.port}",
            f"is it configured for another port? {_LOG}",
        )
    elif why := free_or_why(server):
        section.problem(
            "port",
            f"the service cannot listen on {server.host}:{server.port}: {why}",
            "set server.host and server.port to an address of this box and a port above 1023",
        )
    else:
        section.ok("port", f"port {server.port} is free; no service runs")


def _other(section: Section, box: Box) -> None:
    port = box.loaded.config.server.port
    owner = port_owner(box.machine.root, port)
    section.facts["port_owner"] = owner
    section.problem(
        "port",
        f"port {port} is taken by {owner or 'another program'} ({box.health.detail})",
        "stop it, or serve on another one: server.port",
    )


def _silent(section: Section, box: Box) -> None:
    port = box.loaded.config.server.port
    owner = port_owner(box.machine.root, port) or "a program"
    section.problem(
        "health",
        f"{owner} takes connections on port {port}, but does not answer: {box.health.detail}",
        f"if it is the service, its watchdog restarts it within a minute; {_LOG}",
    )


def _not_asked(section: Section, box: Box) -> None:
    section.note("health", f"not asked: {box.health.detail}")


_EXAMINERS = {
    "ours": _ours,
    "nobody": _nobody,
    "other": _other,
    "silent": _silent,
    "not asked": _not_asked,
}
