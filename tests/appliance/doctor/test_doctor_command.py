"""`qwen-appliance doctor` as it is run: output, exit codes, on whatever machine this is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from appliance import __version__, errors
from appliance.doctor.bandwidth import MemoryReader
from appliance.doctor.command import PROBLEMS_FOUND
from appliance.doctor.examination import SECTIONS
from appliance.doctor.finding import Section
from appliance.doctor.report import SCHEMA, as_json, as_text
from appliance.errors import ApplianceError
from tests.appliance.doctor.fake_box import FakeBox

ROOT = Path(__file__).parents[3]
FREE_PORT = ("--port", "0")
SHAPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "version", "created", "verdict", "counts", "facts", "findings"],
    "properties": {
        "schema": {"const": SCHEMA},
        "version": {"const": __version__},
        "created": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"},
        "verdict": {"enum": ["ok", "note", "problem"]},
        "counts": {
            "required": ["ok", "note", "problem"],
            "additionalProperties": {"type": "integer", "minimum": 0},
        },
        "facts": {"type": "object", "required": [*SECTIONS, "files"]},
        "findings": {
            "type": "array",
            "minItems": 10,
            "items": {
                "additionalProperties": False,
                "required": ["id", "section", "level", "text", "remedy"],
                "properties": {
                    "id": {"type": "string", "pattern": r"^[a-z]+\.\S+$"},
                    "section": {"enum": [*SECTIONS, "files"]},
                    "level": {"enum": ["ok", "note", "problem"]},
                    "text": {"type": "string", "pattern": "^[^\n]+$"},
                    "remedy": {"type": ["string", "null"], "pattern": "^[^\n]+$"},
                },
                "if": {"properties": {"level": {"const": "problem"}}},
                "then": {"properties": {"remedy": {"type": "string"}}},
            },
        },
    },
}


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with nothing of the caller's settings, home and credentials."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}
    return subprocess.run(
        [sys.executable, "-m", "appliance", "doctor", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.stderr == ""
    report: dict[str, Any] = json.loads(ended.stdout)
    jsonschema.validate(report, SHAPE)
    assert ended.returncode == (PROBLEMS_FOUND if report["verdict"] == "problem" else 0)
    return report


def failures(report: dict[str, Any]) -> list[str]:
    return [one["text"] for one in report["findings"] if one["id"].endswith(".failed")]


def test_this_machine_without_a_model() -> None:
    report = told(doctor("--json", *FREE_PORT))
    assert failures(report) == []
    assert report["facts"]["model"]["directory"] is None
    assert report["facts"]["decode"]["bandwidth_bytes_per_s"] > 1e8
    assert report["facts"]["software"]["packages"]["openvino"]


@pytest.mark.model
def test_this_machine_with_a_model(model_dir: Path) -> None:
    report = told(doctor("--json", "--model", str(model_dir), *FREE_PORT))
    assert failures(report) == []
    assert report["facts"]["model"]["verified"] == "sha256"
    decode = report["facts"]["decode"]
    assert decode["weight_bytes"] == (model_dir / "openvino_model.bin").stat().st_size
    floor_ms = decode["weight_bytes"] / decode["bandwidth_bytes_per_s"] * 1000
    assert decode["floor_ms"] == pytest.approx(floor_ms, abs=0.01)


def test_a_model_that_is_not_there_ends_with_8(tmp_path: Path) -> None:
    ended = doctor("--no-measure", "--model", str(tmp_path / "none"), *FREE_PORT)
    assert ended.returncode == 8
    assert "  PROBLEM " in ended.stdout
    assert "-> build it again" in ended.stdout
    assert not ended.stdout.rstrip().endswith("0 problems")


def test_a_flipped_byte_is_found_by_checksums_only(tiny_model_dir: Path) -> None:
    (tiny_model_dir / "openvino_model.bin").write_bytes(b"\1" * 16)
    arguments = ("--no-measure", "--json", "--model", str(tiny_model_dir), *FREE_PORT)
    assert doctor(*arguments).returncode == 8
    report = told(doctor(*arguments, "--no-checksums"))
    assert report["facts"]["model"]["verified"] == "sizes"


# Python may be out of nobody's reach: what is needed of it is loaded by a first run, as root.
AS_NOBODY = """\
import contextlib, io, os, pwd, sys
from appliance.cli import main
arguments = ["doctor", "--json", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()):
    main(arguments)
nobody = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
sys.exit(main(arguments))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


def doctor_of_nobody(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_root
def test_an_ordinary_user_may_run_it() -> None:
    report = told(doctor_of_nobody(*FREE_PORT))
    assert failures(report) == []
    assert report["facts"]["decode"]["bandwidth_bytes_per_s"] > 1e8


@needs_root
def test_files_that_are_not_ours_are_notes(tmp_path: Path, tiny_model_dir: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("server:\n  port: 1\n")
    (tiny_model_dir / "openvino_model.bin").chmod(0o600)
    file.chmod(0o600)
    for directory in (tiny_model_dir, *tiny_model_dir.parents[:3]):
        directory.chmod(0o755)
    arguments = ("--no-measure", "--model", str(tiny_model_dir), *FREE_PORT)
    report = told(doctor_of_nobody(*arguments, QWEN_APPLIANCE_CONFIG=str(file)))
    levels = {one["id"]: one["level"] for one in report["findings"]}
    assert (levels["service.settings"], levels["model.dir"]) == ("note", "note")
    tiny_model_dir.parent.chmod(0o700)
    report = told(doctor_of_nobody(*arguments))
    assert {one["id"]: one["level"] for one in report["findings"]}["model.dir"] == "note"


def test_a_wrong_setting_is_a_problem_and_a_wrong_argument_an_error() -> None:
    report = told(doctor("--json", "--no-measure", QWEN_APPLIANCE_SERVER_PORT="x"))
    assert report["verdict"] == "problem"
    ended = doctor("--set", "server.prot=1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "did you mean server.port?" in ended.stderr


def test_lines_fit_a_terminal(n100: FakeBox) -> None:
    sections = n100.examine().sections
    lines = list(as_text(sections))
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("cpu")] == ["cpu"]
    assert "  ok      governor is performance" in lines
    assert re.fullmatch(r"0 problems, 3 notes, \d\d as they should be", lines[-1])


def test_a_remedy_stands_below_its_finding() -> None:
    section = Section("heat")
    section.problem("throttling", "word " * 30, "clean the fan")
    lines = list(as_text([section, Section("empty")]))
    assert lines[:2] == ["heat", "  PROBLEM " + "word " * 13 + "word"]
    assert lines[-3:] == [
        "          -> clean the fan",
        "",
        "1 problem, 0 notes, 0 as they should be",
    ]


def test_the_verdict_is_the_worst_level(n100: FakeBox) -> None:
    section = Section("a")
    verdicts = []
    for add in (section.ok, section.note, section.problem):
        add("x", "text", *(["remedy"] if add == section.problem else []))
        verdicts.append(json.loads(as_json([section], "now"))["verdict"])
    assert verdicts == ["ok", "note", "problem"]


def test_reading_memory_keeps_to_its_time() -> None:
    watched = []
    begun = time.monotonic()
    with MemoryReader(buffer_bytes=8 << 20) as memory:
        reading = memory.read(0.2, lambda: watched.append(1))
    assert 0.2 < time.monotonic() - begun < 5
    assert reading.bytes_per_s > 1e8
    assert 0 < reading.cpu_share < 1.5
    assert len(watched) > 3


def test_memory_is_read_on_the_cpus_that_are_named() -> None:
    """The caller's own thread stays where it was."""
    before = os.sched_getaffinity(0)
    first = min(before)
    with MemoryReader(frozenset({first}), buffer_bytes=8 << 20) as memory:
        where = memory._pool.submit(os.sched_getaffinity, 0).result()
    assert where == {first}
    assert os.sched_getaffinity(0) == before


def test_no_error_ends_with_the_doctors_code() -> None:
    codes = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type(ApplianceError)) and issubclass(value, ApplianceError)
    }
    assert PROBLEMS_FOUND not in codes
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| {PROBLEMS_FOUND} | `doctor` found a problem |" in table


def test_the_readme_lists_every_fact(n100: FakeBox) -> None:
    readme = (ROOT / "appliance/doctor/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*) \|$", readme, re.MULTILINE))
    knobs = {"governor", "energy_performance_preference", "turbo", "cpu_affinity"}
    knobs |= {"transparent_hugepages", "swappiness"}
    for section, facts in n100.examine().facts.items():
        listed = set(re.findall(r"`([a-z_]+)`", rows[section]))
        assert facts.keys() - knobs <= listed, section
