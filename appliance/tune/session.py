"""One run of `qwen-appliance tune engine`: from settings to a calibration in its file."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from appliance.backends.create import compile_options, create_backend
from appliance.backends.kv_precision import KVPrecision, kv_precision
from appliance.config import EngineConfig, LoadedConfig
from appliance.errors import ConfigError
from appliance.model_dir import Manifest, read_manifest, verify_files
from appliance.tune.calibration import (
    Calibration,
    calibration_path,
    check_writable,
    write_calibration,
)
from appliance.tune.candidates import (
    Candidate,
    Cpu,
    chunk_candidates,
    property_candidates,
    this_cpu,
    untouched,
)
from appliance.tune.contest import TimeBox
from appliance.tune.contestant import BackendContestant, Contestant
from appliance.tune.drafts import change_cost, draft_settings, verify_cost
from appliance.tune.identity import identity_of
from appliance.tune.tuner import Load, Tuner, Tuning


@dataclass(frozen=True, slots=True)
class Machine:
    """What is tuned; tests put another one in its place. `kv_precision` is the default's."""

    cpu: Cpu
    kv_precision: KVPrecision
    load: Load


@dataclass(frozen=True, slots=True)
class Tuned:
    """`left_alone`: settings somebody chose, for which nothing was tried."""

    calibration: Calibration
    path: Path
    left_alone: list[str]


def tune_engine(
    loaded: LoadedConfig,
    *,
    out: Path | None,
    time_box: TimeBox,
    tell: Callable[[str], None],
    machine: Machine | None = None,
) -> Tuned:
    """Find the fastest settings for the model and write them to `out`.

    Without `out` they go where the service looks for them. `tell` gets the name of each trial that
    begins. `machine` replaces the real one. Raises `ConfigError` (also for a file that cannot be
    written), `ModelDirError`, `BackendError`.
    """
    engine, model_dir = loaded.config.engine, loaded.config.model.dir
    if model_dir is None:
        raise ConfigError("model.dir", None, "needed; give --model DIR")
    manifest = read_manifest(model_dir)
    path = _destination(engine, out, manifest)
    machine = machine or this_machine(engine, model_dir, manifest)
    properties, chunks, left_alone = _candidates(loaded, machine, manifest)
    with tempfile.TemporaryDirectory(prefix="qwen-appliance-tune-") as compile_cache:
        # A compile cache of its own, so that nothing is left of those that lost.
        base = dataclasses.replace(engine, compile_cache_dir=Path(compile_cache))
        tuner = Tuner(machine.load, base, manifest.golden, time_box, tell)
        tuning = tuner.run(properties, chunks)
    calibration = _calibration(tuning, manifest, engine.kv_cache)
    try:
        write_calibration(path, calibration)
    except OSError as error:
        raise _unwritable(path, error, out) from error
    return Tuned(calibration, path, left_alone)


def this_machine(engine: EngineConfig, model_dir: Path, manifest: Manifest) -> Machine:
    """The real one, with the model of `model_dir`. Raises `ModelDirError`, `BackendError`."""
    from appliance.backends.loader import cpu_capabilities

    verify_files(model_dir, manifest, checksums=False)

    def load(config: EngineConfig) -> Contestant:
        return BackendContestant(create_backend(config, model_dir, manifest))

    return Machine(this_cpu(cpu_capabilities()), kv_precision(engine), load)


def _candidates(
    loaded: LoadedConfig, machine: Machine, manifest: Manifest
) -> tuple[list[Candidate], list[Candidate], list[str]]:
    """Those that need a load of their own, those that do not, settings that are left alone."""
    engine = loaded.config.engine
    properties = property_candidates(
        compile_options(engine), machine.kv_precision, machine.cpu, manifest.architecture
    )
    chunks = chunk_candidates(engine.prefill_chunk)
    open_properties, closed = untouched(properties, loaded.is_set)
    open_chunks, closed_too = untouched(chunks, loaded.is_set)
    return open_properties, open_chunks, [*closed, *closed_too]


def _calibration(tuning: Tuning, manifest: Manifest, kv_cache: str) -> Calibration:
    changes = {
        name: value
        for candidate in (tuning.winner, tuning.chunk_winner)
        if candidate is not None
        for name, value in candidate.changes.items()
    }
    costs = verify_cost(tuning.sweeps)
    changes.update(draft_settings(costs))
    return Calibration(
        made_for=identity_of(manifest, kv_cache),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={f"engine.{name}": value for name, value in changes.items()},
        verify_cost=costs,
        change_cost=change_cost(tuning.sweeps),
        trials=tuning.trials,
        not_reached=tuning.not_reached,
    )


def _destination(engine: EngineConfig, out: Path | None, manifest: Manifest) -> Path:
    path = out or calibration_path(engine, manifest.name)
    if path is None:
        raise ConfigError(
            "engine.calibration_file", None, "there is no home to keep it in; give --out FILE"
        )
    try:
        check_writable(path)
    except OSError as error:
        raise _unwritable(path, error, out) from error
    return path


def _unwritable(path: Path, error: OSError, out: Path | None) -> ConfigError:
    reason = f"cannot be written: {error.strerror}: {error.filename}; name another file"
    return ConfigError("--out" if out else "engine.calibration_file", str(path), reason)
