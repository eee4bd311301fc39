"""The README's table of what is shown of the API: its files, numbers and versions are true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
LOCKS = ROOT / "provisioning" / "requirements"
ROW = re.compile(r"^\| `(?P<file>\S+\.py)` \| (?P<clients>.*?) ?\| (?P<tests>\d+) \| .+ \|$", re.M)
ROWS = [match.groupdict() for match in ROW.finditer((HERE / "README.md").read_text("utf-8"))]
COUNTS = {row["file"]: int(row["tests"]) for row in ROWS}
VERSIONS = [
    (name, version)
    for row in ROWS
    for name, version in re.findall(r"([a-z][\w-]*) (\d+\.\d+\.\d+)", row["clients"])
]


def collected(files: list[str], world: str, *options: str) -> dict[str, int]:
    """How many tests of each file a session of that world has."""
    command = (sys.executable, "-m", "pytest", "-p", "tests.worlds", "--world", world)
    paths = [f"tests/{file}" for file in files]
    done = subprocess.run(
        [*command, *options, "--collect-only", "-q", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return {file: sum(line.startswith(f"tests/{file}::") for line in lines) for file in files}


def test_the_table_was_found() -> None:
    assert len(ROWS) == len(COUNTS) >= 19 and len(VERSIONS) >= 9


def test_the_numbers_of_our_own_tests() -> None:
    ours = [file for file in COUNTS if not file.startswith("clients/")]
    assert collected(ours, "run") == {file: COUNTS[file] for file in ours}


@pytest.mark.clients
def test_the_numbers_of_the_clients_tests() -> None:
    theirs = [file for file in COUNTS if file.startswith("clients/")]
    assert {f"clients/{path.name}" for path in (HERE / "clients").glob("test_*.py")} == set(theirs)
    loop = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    assert collected(theirs, "clients", *loop) == {file: COUNTS[file] for file in theirs}


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_the_versions_are_those_of_the_locks(name: str, version: str) -> None:
    locked = set()
    for lock in ("test.lock", "clients.lock"):
        locked |= set(re.findall(r"^([\w-]+)==([^\s;]+)", (LOCKS / lock).read_text(), re.M))
    packages = json.loads((HERE / "clients" / "node" / "package-lock.json").read_text())["packages"]
    locked |= {(path.rpartition("/")[2], one["version"]) for path, one in packages.items() if path}
    assert (name, version) in locked
