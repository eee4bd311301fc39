"""`qwen-appliance`: its verbs, and what each kind of mistake says and ends with."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import __version__
from appliance.cli import main
from appliance.config import example_yaml
from appliance.model_dir import MANIFEST

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("QWEN_APPLIANCE_") and "_TEST_" not in name:
            monkeypatch.delenv(name)


def refused(capsys: Capture, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that fails."""
    code = main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("qwen-appliance: ")
    return code, line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments], capture_output=True, text=True, timeout=60
    )


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"qwen-appliance {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["sreve"], ["serve", "--prot", "1"], ["serve", "--port"]]
)
def test_a_command_line_that_is_none(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: qwen-appliance")


def test_config_lists_every_setting_with_its_source(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("engine:\n  max_waiting: 7\nserver:\n  port: 1\n", encoding="utf-8")
    monkeypatch.setenv("QWEN_APPLIANCE_GENERATION_TEMPERATURE", "0.25")
    code = main(
        ["config", "--config", str(file), "--port", "8123", "--set", "model.name=assistant"]
    )
    captured = capsys.readouterr()
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in captured.out.splitlines()}
    assert (code, captured.err) == (0, "")
    assert lines["server.port"] == ["8123", "argument --port"]
    assert lines["model.name"] == ["assistant", "argument --set model.name"]
    assert lines["generation.temperature"] == [
        "0.25",
        "environment QWEN_APPLIANCE_GENERATION_TEMPERATURE",
    ]
    assert lines["engine.max_waiting"] == ["7", f"file {file}"]
    assert lines["server.host"] == ["127.0.0.1", "default"]
    assert len(lines) == len(re.findall(r"^  #\w+:", example_yaml(), re.M))


def test_config_example(capsys: Capture) -> None:
    assert main(["config", "--example"]) == 0
    assert capsys.readouterr().out == example_yaml()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`qwen-appliance config | head -1`: the rest cannot be written; nobody wants to hear so."""
    with subprocess.Popen(
        [sys.executable, "-m", "appliance", "config"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


def test_an_unknown_key(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("server:\n  prot: 8000\n", encoding="utf-8")
    for verb in ("config", "serve"):
        code, line = refused(capsys, verb, "--config", str(file))
        assert code == 2
        assert "server.prot" in line and "did you mean server.port" in line and str(file) in line


def test_a_value_out_of_range(capsys: Capture) -> None:
    code, line = refused(capsys, "serve", "--port", "70000")
    assert code == 2
    assert "server.port" in line and "70000" in line


def test_serving_nothing(capsys: Capture) -> None:
    code, line = refused(capsys, "serve")
    assert code == 2
    assert "model.dir" in line and "--model DIR" in line


def test_a_missing_model_directory(capsys: Capture, tmp_path: Path) -> None:
    code, line = refused(capsys, "serve", "--model", str(tmp_path / "nowhere"))
    assert code == 3
    assert str(tmp_path / "nowhere") in line and "build-model.sh" in line


def test_a_directory_that_is_no_model_directory(capsys: Capture, tmp_path: Path) -> None:
    code, line = refused(capsys, "serve", "--model", str(tmp_path))
    assert code == 3
    assert MANIFEST in line


def test_a_port_that_is_taken_is_told_before_the_model_loads(
    capsys: Capture, tiny_model_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # The tiny directory holds no model: loading it would end with 5.
        code, line = refused(capsys, "serve", "--model", str(tiny_model_dir), "--port", port)
    assert code == 4
    assert f"127.0.0.1:{port}" in line and "in use" in line


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1"])
def test_a_host_that_is_not_ours(capsys: Capture, tiny_model_dir: Path, host: str) -> None:
    arguments = [
        "--model",
        str(tiny_model_dir),
        "--host",
        host,
        "--set",
        "server.allow_no_key=true",
    ]
    code, line = refused(capsys, "serve", *arguments)
    assert code == 4
    assert f"{host}:8000" in line


def test_an_address_for_others_without_a_key(
    capsys: Capture, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    arguments = ["serve", "--model", str(tiny_model_dir), "--host", "0.0.0.0"]
    code, line = refused(capsys, *arguments)
    assert code == 2
    assert "server.host" in line and "qwen-appliance key add" in line
    # A file that is named, and is not there or holds nothing, is no reason to serve without keys.
    keys = tmp_path / "api-keys"
    code, line = refused(capsys, *arguments, "--set", f"server.api_keys_file={keys}")
    assert code == 2 and str(keys) in line
    keys.touch()
    code, line = refused(capsys, *arguments, "--set", f"server.api_keys_file={keys}")
    assert code == 2 and "holds no key" in line


def test_a_model_that_cannot_be_compiled(tiny_model_dir: Path) -> None:
    ended = run("serve", "--model", str(tiny_model_dir), "--port", "0")
    assert ended.returncode == 5
    *_, line = ended.stderr.splitlines()  # OpenVINO's own readers say why, above
    assert line.startswith("ERROR OpenVINO cannot compile")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_mistakes_are_told_quickly_and_without_a_traceback(tmp_path: Path) -> None:
    ended = run("serve", "--model", str(tmp_path / "nowhere"))
    assert ended.returncode == 3
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("qwen-appliance: model directory")
