"""Explicit settings over the calibration over the built-in defaults; and one line about it."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from appliance.config import LoadedConfig, load_config
from appliance.errors import ModelDirError
from appliance.model_dir import read_manifest
from appliance.tune.apply import with_calibration
from appliance.tune.calibration import Calibration, write_calibration
from appliance.tune.identity import identity_of

SETTINGS: dict[str, bool | int | str] = {
    "engine.dynamic_quantization_group_size": 256,
    "engine.prefill_chunk": 64,
    "engine.inference_precision": "f32",
    "engine.prompt_lookup": False,
}


@pytest.fixture
def file(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A calibration of this machine for the tiny model."""
    path = tmp_path / "calibration.json"
    write_calibration(path, calibration(tiny_model_dir))
    return path


def calibration(model_dir: Path, settings: dict[str, bool | int | str] = SETTINGS) -> Calibration:
    return Calibration(
        made_for=identity_of(read_manifest(model_dir), "stateful"),
        created="2026-11-23T02:00:00+00:00",
        settings=settings,
        verify_cost={1: 1.0},
        change_cost=0.4,
        trials=[],
        not_reached=[],
    )


def load(model_dir: Path, file: Path, **overrides: str) -> LoadedConfig:
    given = {f"engine.{name}": value for name, value in overrides.items()}
    given |= {"--model": str(model_dir), "engine.calibration_file": str(file)}
    return load_config(None, {}, given, default_file=Path("/nonexistent/config.yaml"))


def apply(loaded: LoadedConfig, caplog: pytest.LogCaptureFixture) -> tuple[LoadedConfig, str]:
    """The configuration that results, and the one line it logged."""
    with caplog.at_level(logging.INFO):
        calibrated = with_calibration(loaded)
    (line,) = caplog.messages
    return calibrated, line


def test_it_sets_what_nobody_set(
    tiny_model_dir: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calibrated, line = apply(load(tiny_model_dir, file), caplog)
    engine = calibrated.config.engine
    assert engine.dynamic_quantization_group_size == 256
    assert engine.prefill_chunk == 64
    assert engine.inference_precision == "f32"
    assert engine.prompt_lookup is False
    assert {calibrated.sources[key] for key in SETTINGS} == {f"calibration {file}"}
    assert calibrated.sources["engine.num_threads"] == "default"
    assert line == (
        f"calibration {file} of 2026-11-23: engine.dynamic_quantization_group_size = 256, "
        "engine.prefill_chunk = 64, engine.inference_precision = f32, engine.prompt_lookup = false"
    )


def test_whoever_set_something_wins_even_with_the_default_s_value(
    tiny_model_dir: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(tiny_model_dir, file, prefill_chunk="128", inference_precision="bf16")
    calibrated, line = apply(loaded, caplog)
    engine = calibrated.config.engine
    assert (engine.prefill_chunk, engine.inference_precision) == (128, "bf16")
    assert engine.dynamic_quantization_group_size == 256
    assert calibrated.sources["engine.prefill_chunk"] == "argument --set engine.prefill_chunk"
    assert "prefill_chunk = 64 (not used: set by argument --set engine.prefill_chunk)" in line


def test_a_calibration_without_a_winner_is_told_too(
    tiny_model_dir: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_calibration(file, calibration(tiny_model_dir, {}))
    loaded = load(tiny_model_dir, file)
    calibrated, line = apply(loaded, caplog)
    assert calibrated.config == loaded.config
    assert line.endswith("the built-in defaults are as fast as anything that was tried")


@pytest.mark.parametrize(
    ("field", "value"), [("cpu", "another"), ("openvino", "1.0"), ("model", "00")]
)
def test_a_stale_file_is_ignored_with_one_line(
    tiny_model_dir: Path, file: Path, caplog: pytest.LogCaptureFixture, field: str, value: str
) -> None:
    made = calibration(tiny_model_dir)
    elsewhere = msgspec.structs.replace(made.made_for, **{field: value})
    write_calibration(file, msgspec.structs.replace(made, made_for=elsewhere))
    loaded = load(tiny_model_dir, file)
    calibrated, line = apply(loaded, caplog)
    assert calibrated is loaded
    assert line.startswith(f"calibration {file} ignored: made for {field} {value}, this is ")
    assert "qwen-appliance tune engine" in line
    assert caplog.records[0].levelname == "WARNING"


def test_another_variant_s_file_is_ignored(
    tiny_model_dir: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(tiny_model_dir, file, kv_cache="paged")
    calibrated, line = apply(loaded, caplog)
    assert calibrated is loaded
    assert "made for kv_cache stateful, this is paged" in line


@pytest.mark.parametrize(
    "settings",
    [
        {"engine.prefill_chunk": 3},
        {"engine.prefill_chunk": "64"},
        {"engine.inference_precision": "f8"},
        {"engine.prompt_lookup": 1},
        {"engine.prefill_chunk": True},
        {"engine.dynamic_quantization_group_size": -1},
    ],
)
def test_a_value_that_no_setting_allows_spoils_all_of_it(
    tiny_model_dir: Path,
    file: Path,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, bool | int | str],
) -> None:
    write_calibration(file, calibration(tiny_model_dir, {"engine.num_threads": 1, **settings}))
    loaded = load(tiny_model_dir, file)
    calibrated, line = apply(loaded, caplog)
    assert calibrated is loaded
    (key,) = settings
    assert f"ignored: config: {key} = " in line and "expected" in line


def test_a_corrupt_file_is_ignored_with_one_line(
    tiny_model_dir: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(file.read_bytes()[:100])
    loaded = load(tiny_model_dir, file)
    calibrated, line = apply(loaded, caplog)
    assert calibrated is loaded
    assert line.startswith(f"calibration {file} ignored: corrupt: ")


def test_a_named_file_that_is_not_there_yet_is_told(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(tiny_model_dir, tmp_path / "none.json")
    calibrated, line = apply(loaded, caplog)
    assert calibrated is loaded
    assert line.startswith(f"no calibration in {tmp_path / 'none.json'} yet")


def test_nobody_asked_for_one_and_there_is_none(
    tiny_model_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    nowhere = Path("/nonexistent/config.yaml")
    loaded = load_config(None, {}, {"--model": str(tiny_model_dir)}, default_file=nowhere)
    with caplog.at_level(logging.INFO):
        assert with_calibration(loaded) is loaded
        # Without a model there is nothing it could be for.
        empty = load_config(None, {}, {}, default_file=nowhere)
        assert with_calibration(empty) is empty
    assert caplog.messages == []


def test_a_missing_model_directory_is_the_error_it_always_was(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match="does not exist"):
        with_calibration(load(tmp_path / "nowhere", tmp_path / "c.json"))
