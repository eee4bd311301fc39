"""The file: written in one step, read only by what it was made for, never trusted."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import EngineConfig
from appliance.config.load import SETTINGS
from appliance.tune.calibration import (
    TUNED_SETTINGS,
    Calibration,
    Trial,
    UnusableCalibrationError,
    calibration_path,
    check_writable,
    read_calibration,
    write_calibration,
)
from appliance.tune.identity import Identity

HERE = Identity(cpu="N100, 4 CPUs", openvino="2026.4.1", model="ab12", kv_cache="stateful")


def calibration(**changes: Any) -> Calibration:
    made = Calibration(
        made_for=HERE,
        created="2026-11-23T02:00:00+00:00",
        settings={"engine.dynamic_quantization_group_size": 256, "engine.prefill_chunk": 64},
        verify_cost={1: 1.0, 2: 1.1, 4: 1.3},
        change_cost=0.4,
        trials=[Trial("default", 7, 30.0, 200.0, 1.0, None, False, "")],
        not_reached=["kv f16"],
    )
    return msgspec.structs.replace(made, **changes)


def refused(path: Path) -> str:
    with pytest.raises(UnusableCalibrationError) as caught:
        read_calibration(path, HERE)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 250
    return text


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calibration.json"
    write_calibration(path, calibration())
    assert read_calibration(path, HERE) == calibration()
    assert json.loads(path.read_text())["verify_cost"] == {"1": 1.0, "2": 1.1, "4": 1.3}


def test_the_service_may_read_what_root_wrote(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_calibration(tmp_path / "c.json", calibration())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "c.json").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu", "Ryzen, 4 CPUs"),
        ("openvino", "2026.3.0"),
        ("model", "cd34"),
        ("kv_cache", "paged"),
    ],
)
def test_made_for_something_else(tmp_path: Path, field: str, value: str) -> None:
    elsewhere = msgspec.structs.replace(HERE, **{field: value})
    write_calibration(tmp_path / "c.json", calibration(made_for=elsewhere))
    assert refused(tmp_path / "c.json") == (
        f"made for {field} {value}, this is {getattr(HERE, field)}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": 1}',
        "\x00\x01",
        '{"format": 1, "made_for": 3}',
    ],
)
def test_corrupt(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    assert refused(path).startswith("corrupt: ")


def test_every_truncation_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, calibration())
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:length])
        assert refused(path).startswith("corrupt: ")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, calibration())
    path.write_bytes(path.read_bytes().replace(b"default", b"def\xff\xfelt"))
    assert refused(path).startswith("corrupt: ")


def test_another_format(tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.json", calibration(format=2))
    assert refused(tmp_path / "c.json") == "format 2, this version reads 1"


@pytest.mark.parametrize("key", ["server.host", "engine.max_waiting", "nonsense"])
def test_what_is_not_tuned_is_not_set_by_it(tmp_path: Path, key: str) -> None:
    write_calibration(tmp_path / "c.json", calibration(settings={key: 1}))
    assert refused(tmp_path / "c.json") == f"corrupt: it sets {key}"


def test_what_is_tuned_are_settings() -> None:
    assert {setting.key for setting in SETTINGS} >= TUNED_SETTINGS


def test_no_file_is_no_defect(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_calibration(tmp_path / "c.json", HERE)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    assert refused(tmp_path) == "not a file"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "not a file"
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "c.json") == "cannot be read: Not a directory"


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, calibration())
    unwritable: Any = {"engine.num_threads": object()}
    with pytest.raises(TypeError):
        write_calibration(path, calibration(settings=unwritable))
    assert read_calibration(path, HERE) == calibration()
    assert [one.name for one in tmp_path.iterdir()] == ["c.json"]


def test_it_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, calibration())
    with path.open("rb") as reader:
        write_calibration(path, calibration(settings={}))
        assert msgspec.json.decode(reader.read(), type=Calibration) == calibration()
    assert read_calibration(path, HERE).settings == {}


def test_whether_it_could_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "c.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "c.json", tmp_path):
        with pytest.raises(OSError):
            check_writable(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (EngineConfig(), "/caches/qwen-appliance/calibration-Qwen_2.5-stateful.json"),
        (EngineConfig(kv_cache="paged"), "/caches/qwen-appliance/calibration-Qwen_2.5-paged.json"),
        (EngineConfig(compile_cache_dir=Path("/x")), "/x/calibration-Qwen_2.5-stateful.json"),
        (EngineConfig(calibration_file=Path("/y/c.json")), "/y/c.json"),
    ],
)
def test_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, config: EngineConfig, expected: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert calibration_path(config, "Qwen/2.5") == Path(expected)


def test_without_a_home_it_lies_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/")
    assert calibration_path(EngineConfig(), "m") is None
