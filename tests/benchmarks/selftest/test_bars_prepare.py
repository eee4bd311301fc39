"""What is done before anything is measured: arguments, conversions, venvs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.harness import arguments
from tests.benchmarks.harness.fleet import UnavailableError
from tests.benchmarks.peers import venv
from tests.benchmarks.peers.inputs import published
from tests.benchmarks.peers.venv import PeerVenv


def parse(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["bench", "--model", "DIR", *words])
    return arguments.parse(("decode", "memory"), ("genai",), ("stateful", "paged"))


def test_an_empty_variable_of_make_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments_of(parse(monkeypatch, "--only", "", "--gguf", "", "--kv", "paged"))
    assert args["only"] == ("decode", "memory")
    assert args["kv"] == ("paged",)
    assert args["gguf"] is None


def arguments_of(namespace: object) -> dict[str, object]:
    return vars(namespace)


def test_names_are_taken_in_the_order_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments_of(parse(monkeypatch, "--only", "memory, decode", "--quick"))
    assert args["only"] == ("decode", "memory")
    assert args["repeats"] == 0.5


def test_an_unknown_bar_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(monkeypatch, "--only", "decode,speed")
    assert ended.value.code == 2
    assert "there is no 'speed'; expected decode, memory" in capsys.readouterr().err


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "ir"
    with pytest.raises(RuntimeError), published(place) as draft:
        draft.mkdir()
        raise RuntimeError("no space left")
    assert list(place.parent.iterdir()) == []
    with published(place) as draft:
        draft.write_text("whole")
    assert place.read_text() == "whole"


def test_a_venv_that_cannot_be_made_says_why_and_does_not_count_as_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer.txt").write_text("peer==1\n")
    monkeypatch.setattr(venv, "_REQUIREMENTS", tmp_path)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho trying\necho no ensurepip here >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "_base_executable", str(python))
    peer = PeerVenv(tmp_path, "peer")
    with pytest.raises(UnavailableError, match=r"^\.venv-bench-peer cannot be made: no ensurepip"):
        peer.ensure()
    assert not (peer.path / "stamp").exists()
