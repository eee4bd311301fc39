"""The unit files as files: explained, hardened, and at one with the code they start."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.config.load import DEFAULT_FILE
from appliance.errors import HostTuningError
from appliance.tune.host.host import STATE
from appliance.tune.host.plan import AFFINITY

UNITS = Path(__file__).parents[2] / "systemd"
ALL = sorted(p for p in UNITS.iterdir() if p.suffix in (".service", ".mount", ".socket"))
SERVICE = UNITS / "qwen-appliance.service"
STAGE = UNITS / "qwen-appliance-stage.service"
TUNE = UNITS / "qwen-appliance-tune.service"
MAX_EXPOSURE = 1.5


def directives(unit: Path) -> list[tuple[str, str]]:
    """Name and value of every line, in their order."""
    lines = [line for line in unit.read_text(encoding="utf-8").splitlines() if "=" in line]
    return [
        (name, value)
        for name, _, value in (line.partition("=") for line in lines)
        if not name.startswith("#")
    ]


def value(unit: Path, name: str) -> str:
    (found,) = [v for n, v in directives(unit) if n == name]
    return found


def explained() -> dict[str, str]:
    """Every directive that has its place in a table of the README, and what is said of it."""
    rows = re.findall(r"^\| (`\w+=`.*?) \| (.*) \|$", (UNITS / "README.md").read_text(), re.M)
    return {name: why for names, why in rows for name in re.findall(r"`(\w+)=`", names)}


def test_every_directive_that_is_used_is_explained() -> None:
    used = {name for unit in ALL for name, _ in directives(unit)}
    assert used - explained().keys() == set()


def test_what_is_explained_is_used_or_left_out_on_purpose() -> None:
    used = {name for unit in ALL for name, _ in directives(unit)}
    unused = {name: why for name, why in explained().items() if name not in used}
    assert [name for name, why in unused.items() if "left out on purpose" not in why] == []


def test_the_readme_names_every_file() -> None:
    text = (UNITS / "README.md").read_text(encoding="utf-8")
    names = [unit.name for unit in ALL]
    assert len(names) == 5
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_mount_is_named_after_its_place_and_used_by_all() -> None:
    (mount,) = [unit for unit in ALL if unit.suffix == ".mount"]
    where = value(mount, "Where")
    escaped = where.strip("/").replace("-", r"\x2d").replace("/", "-")
    assert mount.name == f"{escaped}.mount"
    assert where in value(STAGE, "RequiresMountsFor")
    assert value(STAGE, "ExecStart").endswith(f"stage --to {where}")
    assert value(SERVICE, "ExecStart").endswith(f"serve --model {where}/current")
    assert value(SERVICE, "ReadOnlyPaths") == where


@pytest.mark.parametrize("unit", [SERVICE, STAGE, TUNE], ids=lambda path: path.name)
def test_what_the_units_start_is_a_command(unit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [v.split() for n, v in directives(unit) if n in ("ExecStart", "ExecStop")]
    for program, *arguments in commands:
        assert program == "/opt/qwen-appliance/venv/bin/qwen-appliance"
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0


def test_a_knob_that_refuses_does_not_undo_the_others() -> None:
    assert value(TUNE, "SuccessExitStatus") == str(HostTuningError.exit_code)


def test_the_tunings_files_are_where_its_unit_may_write() -> None:
    assert AFFINITY.startswith(value(TUNE, "ReadWritePaths").lstrip("/") + f"/{SERVICE.name}.d/")
    assert STATE.startswith("run/" + value(TUNE, "RuntimeDirectory") + "/")


def test_what_no_restart_heals_is_not_restarted() -> None:
    assert value(SERVICE, "RestartPreventExitStatus") == "2 3"
    readme = (UNITS.parent / "README.md").read_text(encoding="utf-8")
    assert "| 2 | a wrong argument or setting" in readme
    assert "| 3 | model directory missing or unusable" in readme


def test_the_directories_are_where_the_service_looks() -> None:
    text = (UNITS / "tmpfiles.d/qwen-appliance.conf").read_text(encoding="utf-8")
    assert re.search(rf"^d {DEFAULT_FILE.parent} ", text, re.M)
    user = value(SERVICE, "User")
    assert f"\nu {user} " in (UNITS / "sysusers.d/qwen-appliance.conf").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_service_is_little_exposed() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager"]
    report = subprocess.run([*command, str(SERVICE)], capture_output=True, text=True, check=False)
    if "unrecognized option" in report.stderr:
        pytest.skip("systemd-analyze is older than 250")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", report.stdout)
    assert found and float(found[1]) <= MAX_EXPOSURE
