"""Versions: the system's, and what the service is made of."""

from __future__ import annotations

import platform
import re
import sys

from appliance import __version__
from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.tune.identity import installed_version

_PYTHON = ((3, 10), (3, 13))
_OLDEST_SYSTEMD = 252
_RUN_WORLD = ("openvino", "numpy", "tokenizers", "litestar", "uvicorn", "llguidance")
_INSTALL = "install it again: make install, or sudo ./provisioning/provision.sh"


def examine(box: Box) -> Section:
    """Findings of this section, from what is installed; nothing of it is imported."""
    section = Section("software")
    packages = {name: installed_version(name) for name in _RUN_WORLD}
    system = _os_name(box)
    kernel = box.text("proc/sys/kernel/osrelease") or platform.release()
    systemd = _systemd_version(box)
    section.facts.update(
        host=platform.node(),
        qwen_appliance=__version__,
        os=system,
        kernel=kernel,
        architecture=platform.machine(),
        python=platform.python_version(),
        systemd=systemd,
        packages=packages,
    )
    section.ok("system", f"{system}, kernel {kernel}, {platform.machine()}")
    missing = [name for name, version in packages.items() if version is None]
    told = f"qwen-appliance {__version__}, OpenVINO {packages['openvino']}"
    if missing:
        section.problem("packages", f"not installed here: {', '.join(missing)}", _INSTALL)
    else:
        section.ok("packages", f"{told}, Python {platform.python_version()}")
    if not _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]:
        section.problem(
            "python", f"Python {platform.python_version()}; 3.10 to 3.13 are supported", _INSTALL
        )
    if systemd is not None and systemd < _OLDEST_SYSTEMD:
        section.note(
            "systemd",
            f"systemd {systemd}; the units are proven from {_OLDEST_SYSTEMD} on",
            "systemd/README.md says what an older one lacks",
        )
    return section


def _os_name(box: Box) -> str:
    for path in ("etc/os-release", "usr/lib/os-release"):
        for line in (box.text(path) or "").splitlines():
            name, _, value = line.partition("=")
            if name == "PRETTY_NAME":
                return value.strip("\"'")
    return platform.system()


def _systemd_version(box: Box) -> int | None:
    if not box.machine.has("run/systemd/system"):
        return None
    try:
        match = re.match(r"systemd (\d+)", box.machine.tools.run("systemctl", "--version"))
    except OSError:
        return None
    return int(match[1]) if match else None
