"""Puts a calibration under the configuration: above the built-in defaults, below all else."""

from __future__ import annotations

import logging

from appliance.config import LoadedConfig, fill_defaults
from appliance.errors import ConfigError
from appliance.model_dir import read_manifest
from appliance.tune.calibration import (
    Calibration,
    UnusableCalibrationError,
    calibration_path,
    read_calibration,
)
from appliance.tune.identity import identity_of

_log = logging.getLogger(__name__)


def with_calibration(loaded: LoadedConfig) -> LoadedConfig:
    """`loaded` with what was measured on this machine for settings that nobody set.

    Logs one line: what is used, or why a file is not. Such a file is never fatal; no file at the
    place nobody named is not worth a line. Raises `ModelDirError`.
    """
    engine, model_dir = loaded.config.engine, loaded.config.model.dir
    if model_dir is None:
        return loaded
    manifest = read_manifest(model_dir)
    path = calibration_path(engine, manifest.name)
    if path is None:
        return loaded
    try:
        calibration = read_calibration(path, identity_of(manifest, engine.kv_cache))
        calibrated = fill_defaults(loaded, calibration.settings, f"calibration {path}")
    except FileNotFoundError:
        if engine.calibration_file is not None:
            _log.info("no calibration in %s yet; `qwen-appliance tune engine` makes it", path)
        return loaded
    except (UnusableCalibrationError, ConfigError) as error:
        _log.warning(
            "calibration %s ignored: %s; make it anew with `qwen-appliance tune engine`",
            path,
            error,
        )
        return loaded
    _log.info(
        "calibration %s of %s: %s", path, calibration.created[:10], _told(calibration, loaded)
    )
    return calibrated


def _told(calibration: Calibration, loaded: LoadedConfig) -> str:
    """What it changes, and what it would change if nobody had said otherwise."""
    parts = []
    for key, words in calibration.settings_in_words().items():
        overruled = f" (not used: set by {loaded.sources[key]})" if loaded.is_set(key) else ""
        parts.append(f"{words}{overruled}")
    return ", ".join(parts) or "the built-in defaults are as fast as anything that was tried"
