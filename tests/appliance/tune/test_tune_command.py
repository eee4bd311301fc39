"""`qwen-appliance tune engine`: from settings to a file that the service uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.config import EngineConfig, LoadedConfig, load_config
from appliance.errors import ConfigError
from appliance.model_dir import read_manifest
from appliance.tune.calibration import read_calibration
from appliance.tune.candidates import Cpu
from appliance.tune.contest import TimeBox
from appliance.tune.identity import identity_of
from appliance.tune.report import as_table
from appliance.tune.session import Tuned, tune_engine
from tests.appliance.tune.scripted_machine import ScriptedMachine, Speed
from tests.served_process import ServedProcess

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("QWEN_APPLIANCE_") and "_TEST_" not in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def load(model_dir: Path, **overrides: str) -> LoadedConfig:
    given = {f"engine.{name}": value for name, value in overrides.items()}
    nowhere = Path("/nonexistent/config.yaml")
    return load_config(None, {}, given | {"--model": str(model_dir)}, default_file=nowhere)


def fast_in_groups_of_64(config: EngineConfig) -> Speed:
    return (25, 200) if config.dynamic_quantization_group_size == 64 else (30, 200)


def tune(
    loaded: LoadedConfig,
    machine: ScriptedMachine,
    *,
    out: Path | None = None,
    seconds: float = 1000,
    cpu: Cpu | None = None,
) -> Tuned:
    time_box = TimeBox(machine.now + seconds, machine.clock)
    return tune_engine(
        loaded,
        out=out,
        time_box=time_box,
        tell=lambda name: None,
        machine=machine.as_machine(cpu),
    )


def test_the_winner_is_in_the_file_where_the_service_looks(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    tuned = tune(load(tiny_model_dir), ScriptedMachine(fast_in_groups_of_64))
    assert tuned.path == tmp_path / "caches/qwen-appliance/calibration-tiny-stateful.json"
    here = identity_of(read_manifest(tiny_model_dir), "stateful")
    read = read_calibration(tuned.path, here)
    assert read == tuned.calibration
    assert read.settings == {
        "engine.dynamic_quantization_group_size": 64,
        "engine.max_draft_tokens": 6,
    }
    assert read.verify_cost[1] == 1.0 and read.verify_cost[8] == pytest.approx(1.7)
    assert read.change_cost == pytest.approx(0.5)
    assert read.not_reached == []


def test_a_given_file_goes_before_the_configured_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    loaded = load(tiny_model_dir, calibration_file=str(tmp_path / "configured.json"))
    assert tune(loaded, ScriptedMachine()).path == tmp_path / "configured.json"
    out = tmp_path / "new" / "given.json"
    assert tune(loaded, ScriptedMachine(), out=out).path == out
    assert out.is_file()


def test_chosen_settings_are_the_base_and_are_left_alone(tiny_model_dir: Path) -> None:
    machine = ScriptedMachine(fast_in_groups_of_64)
    loaded = load(
        tiny_model_dir, dynamic_quantization_group_size="256", prefill_chunk="128", num_threads="2"
    )
    tuned = tune(loaded, machine)
    assert {config.dynamic_quantization_group_size for config in machine.loaded} == {256}
    assert {config.num_threads for config in machine.loaded} == {2}
    assert [trial.name for trial in tuned.calibration.trials] == ["default", "kv f16"]
    assert tuned.left_alone == [
        "engine.dynamic_quantization_group_size",
        "engine.num_threads",
        "engine.prefill_chunk",
    ]


def test_nothing_of_an_old_calibration_is_in_the_base(tiny_model_dir: Path) -> None:
    tune(load(tiny_model_dir), ScriptedMachine(fast_in_groups_of_64))
    again = ScriptedMachine(fast_in_groups_of_64)
    tune(load(tiny_model_dir), again)
    assert again.loaded[0].dynamic_quantization_group_size is None


def test_compiled_models_of_losers_are_not_left_behind(tiny_model_dir: Path) -> None:
    machine = ScriptedMachine()
    tune(load(tiny_model_dir), machine)
    (cache,) = {config.compile_cache_dir for config in machine.loaded}
    assert cache is not None and not cache.exists()


def test_no_time_at_all_still_measures_the_default(tiny_model_dir: Path) -> None:
    tuned = tune(load(tiny_model_dir), ScriptedMachine(fast_in_groups_of_64), seconds=0.01)
    assert [trial.name for trial in tuned.calibration.trials] == ["default"]
    assert "group 64" in tuned.calibration.not_reached
    assert tuned.calibration.settings == {"engine.max_draft_tokens": 6}


def test_the_table(tiny_model_dir: Path) -> None:
    machine = ScriptedMachine(fast_in_groups_of_64)
    table = list(as_table(tune(load(tiny_model_dir), machine, seconds=15).calibration))
    assert table[:5] == [
        "candidate  decode ms  prefill 128 ms  x default  verdict",
        "default        30.00           200.0      1.000",
        "group 64       25.00           200.0      0.849  wins by more than 3.0%",
        "",
        table[4],
    ]
    assert "no time for: group 256, group 32, 3 threads, kv f16" in table[5]
    assert table[-1] == (
        "kept: engine.dynamic_quantization_group_size = 64, engine.max_draft_tokens = 6"
    )


def test_a_machine_that_was_not_quiet_is_told(tiny_model_dir: Path) -> None:
    remark = "the machine was not quiet"

    def lines(noise: Iterator[float]) -> list[str]:
        machine = ScriptedMachine(noise=noise)
        return list(as_table(tune(load(tiny_model_dir), machine).calibration))

    assert not any(line.startswith(remark) for line in lines(cycle([1.0])))
    (line,) = [one for one in lines(cycle([1.0, 1.7, 1.2, 0.8, 1.0])) if one.startswith(remark)]
    assert "tune again when it is" in line


def refused(capsys: Capture, *arguments: str) -> tuple[int, str]:
    code = main(["tune", "engine", *arguments])
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return code, line


def test_an_output_that_cannot_be_written_is_told_before_anything_is_loaded(
    capsys: Capture, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "c.json"
    # The tiny directory holds no model: loading it would end with 5.
    code, line = refused(capsys, "--model", str(tiny_model_dir), "--out", str(out))
    assert code == 2
    assert line == (
        f"qwen-appliance: config: --out = '{out}': cannot be written: File exists: "
        f"{tmp_path / 'file'}; name another file"
    )
    setting = f"engine.calibration_file={tmp_path}"
    code, line = refused(capsys, "--model", str(tiny_model_dir), "--set", setting)
    assert code == 2
    assert "engine.calibration_file = " in line and "Is a directory" in line


def test_an_output_that_became_unwritable_meanwhile(tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "place" / "c.json"

    def speed(config: EngineConfig) -> Speed:
        if out.parent.is_dir():
            out.parent.rmdir()
            out.parent.touch()
        return 30, 200

    with pytest.raises(ConfigError, match="cannot be written"):
        tune(load(tiny_model_dir), ScriptedMachine(speed), out=out)


def test_mistakes(capsys: Capture, tmp_path: Path, tiny_model_dir: Path) -> None:
    code, line = refused(capsys)
    assert code == 2 and "model.dir" in line
    code, line = refused(capsys, "--model", str(tmp_path / "nowhere"))
    assert code == 3 and "does not exist" in line
    for arguments in (["tune"], ["tune", "engine", "--seconds", "0"], ["tune", "host"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "usage: qwen-appliance tune" in capsys.readouterr().err


def test_without_a_home_a_place_must_be_named(
    capsys: Capture, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/")
    code, line = refused(capsys, "--model", str(tiny_model_dir))
    assert code == 2 and "engine.calibration_file" in line and "--out FILE" in line


def test_config_shows_what_is_calibrated(
    capsys: Capture, tiny_model_dir: Path, tmp_path: Path
) -> None:
    tuned = tune(load(tiny_model_dir), ScriptedMachine(fast_in_groups_of_64))
    key = "engine.dynamic_quantization_group_size"

    def listed(*arguments: str) -> list[str]:
        assert main(["config", "--model", str(tiny_model_dir), *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        (line,) = [one for one in captured.out.splitlines() if one.startswith(f"{key} ")]
        return line.split(maxsplit=2)[1:]

    assert listed() == ["64", f"calibration {tuned.path}"]
    assert listed("--set", f"{key}=128") == ["128", f"argument --set {key}"]


def test_config_goes_on_without_a_model_directory(capsys: Capture, tmp_path: Path) -> None:
    assert main(["config", "--model", str(tmp_path / "nowhere")]) == 0
    captured = capsys.readouterr()
    assert "without a calibration: model directory" in captured.err
    assert "engine.calibration_file" in captured.out


def run(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", "tune", "engine", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def calibration_lines(served: ServedProcess) -> list[str]:
    return [line for line in served.lines if "calibration" in line]


@pytest.mark.model
def test_the_service_uses_what_the_command_measured(model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    ended = run("--model", str(model_dir), "--out", str(path), "--seconds", "15", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told == json.loads(path.read_text())
    default, *_ = told["trials"]
    assert 0 < default["decode_ms"] < default["prefill_ms"]
    assert set(told["verify_cost"]) == {"1", "2", "4", "8", "16"}
    assert len(told["trials"]) - 1 + len(told["not_reached"]) >= 6

    setting = f"engine.calibration_file={path}"
    told["settings"] = {"engine.dynamic_quantization_group_size": 64}  # whoever won just now
    path.write_text(json.dumps(told))
    with ServedProcess(model_dir, setting, cache_dir=tmp_path) as served:
        (line,) = calibration_lines(served)
        assert line == (
            f"INFO calibration {path} of {told['created'][:10]}: "
            "engine.dynamic_quantization_group_size = 64"
        )
        answer = served.client.post("/v1/chat/completions", json=served.body(max_tokens=3))
        assert answer.status_code == 200

    other_model: dict[str, Any] = {**told, "made_for": {**told["made_for"], "model": "00"}}
    path.write_text(json.dumps(other_model))
    with ServedProcess(model_dir, setting, cache_dir=tmp_path) as served:
        (line,) = calibration_lines(served)
        assert line.startswith(f"WARNING calibration {path} ignored: made for model 00, this is")
