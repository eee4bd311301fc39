"""`tune engine` as the service would run: as its user, on its CPUs, with its directories, alone.

In a transient unit, which holds the knobs of this machine as the service does. Its CPUs are part of
what a calibration was made for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

SERVICE = "qwen-appliance.service"
TUNE = "qwen-appliance-tune.service"
_SECONDS_OVER = 240  # the default is measured in any case, and loading takes its time


class CalibrationError(ValueError):
    """It could not be measured; the text is what was said."""


def state() -> str:
    """`valid`, or why there is none that counts: `missing`, `stale`, `unreadable`, `no model`."""
    told = json.loads(_doctor())
    return str(told["facts"]["calibration"]["state"])


def calibrate(seconds: float) -> dict[str, Any]:
    """Measure unless there is a calibration for this CPU, OpenVINO and model.

    `{"changed", "state"}`. Raises `CalibrationError`.
    """
    if state() == "valid":
        return {"changed": False, "state": "valid"}
    command = os.path.join(sys.prefix, "bin", "qwen-appliance")
    cpus = _show("CPUAffinity")
    ended = subprocess.run(
        [
            *("systemd-run", "--quiet", "--wait", "--pipe", "--collect"),
            *(f"--property=Wants={TUNE}", f"--property=After={TUNE}"),
            *("--property=User=qwen-appliance", "--property=CacheDirectory=qwen-appliance"),
            *("--property=CacheDirectoryMode=0700", "--property=UMask=0077"),
            *([f"--property=CPUAffinity={cpus}"] if cpus else []),
            "--setenv=XDG_CACHE_HOME=/var/cache",
            *(command, "tune", "engine", "--seconds", str(seconds)),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + _SECONDS_OVER,
        check=False,
    )
    if ended.returncode:
        raise CalibrationError(f"tune engine: {ended.stderr[-1000:].strip()}")
    return {"changed": True, "state": state(), "told": ended.stdout.splitlines()}


def _doctor() -> str:
    command = os.path.join(sys.prefix, "bin", "qwen-appliance")
    options = ("--json", "--no-measure", "--no-checksums")
    return subprocess.run(
        [command, "doctor", *options], capture_output=True, text=True, check=False
    ).stdout


def _show(name: str) -> str:
    return subprocess.run(
        ["systemctl", "show", "-P", name, SERVICE], capture_output=True, text=True, check=True
    ).stdout.strip()
