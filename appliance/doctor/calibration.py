"""What `tune engine` measured: there or not, and made for this box or another."""

from __future__ import annotations

import dataclasses

from appliance.doctor.box import Box
from appliance.doctor.finding import Section
from appliance.tune.calibration import (
    UnusableCalibrationError,
    calibration_path,
    read_calibration,
)
from appliance.tune.identity import identity_of

_MAKE = "qwen-appliance tune engine --model DIR, while the service is stopped"


def examine(box: Box) -> Section:
    """One finding. A service without a calibration is slower by some per cent, not wrong."""
    section = Section("calibration")
    section.facts.update(path=None, state=None, settings=None)
    manifest, engine = box.model.manifest, box.loaded.config.engine
    if manifest is None:
        section.facts["state"] = "no model"
        return section
    if engine.compile_cache_dir is None and box.cache_dir is not None:
        engine = dataclasses.replace(engine, compile_cache_dir=box.cache_dir)
    path = calibration_path(engine, manifest.name)
    section.facts["path"] = None if path is None else str(path)
    here = identity_of(
        manifest,
        engine.kv_cache,
        cpuinfo=box.machine.root / "proc/cpuinfo",
        num_cpus=len(box.cpus[0]) if box.is_installed else None,
    )
    try:
        if path is None:
            raise FileNotFoundError
        calibration = read_calibration(path, here)
    except FileNotFoundError:
        section.facts["state"] = "missing"
        section.note("file", "no calibration: the engine runs with built-in defaults", _MAKE)
    except UnusableCalibrationError as error:
        if isinstance(error.__cause__, PermissionError):
            section.facts["state"] = "unreadable"
            section.note("file", f"{path}: {error}", "run doctor with sudo")
        else:
            section.facts["state"] = "stale"
            section.note("file", f"{path} is ignored: {error}", _MAKE)
    else:
        section.facts.update(state="valid", settings=calibration.settings)
        told = ", ".join(calibration.settings_in_words().values()) or "the defaults are fastest"
        section.ok("file", f"calibration of {calibration.created[:10]}: {told}")
    return section
