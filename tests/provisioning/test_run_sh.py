"""`tests/run.sh` tells the truth: what ran, what failed, and when nothing was selected."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """\
import os, pytest
def test_plain(): assert os.environ["QWEN_APPLIANCE_TEST_MODEL"].startswith("/")
@pytest.mark.build
def test_torch(): pass
@pytest.mark.build
def test_broken(): assert False
@pytest.mark.clients
def test_client(): pass
@pytest.mark.bench
def test_slow(): assert False
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with five tests, where venvs and model cost nothing."""
    root = tmp_path / "check out"
    for folder in ("provisioning", "tests"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "provisioning" / "python.sh", root / "provisioning")
    for name in ("run.sh", "worlds.py"):
        shutil.copy(ROOT / "tests" / name, root / "tests")
    (root / "provisioning" / "venvs.py").write_text("")
    for path, text in (
        ("provisioning/build-model.sh", "exit 0"),
        ("tests/check.sh", "echo checked"),
        ("tests/system_packages.sh", "exit 0"),
        (".venv-test/bin/python", f'exec "{sys.executable}" "$@"'),
        (".venv-build-test/bin/python", f'exec "{sys.executable}" "$@"'),
        (".venv-clients/bin/python", f'exec "{sys.executable}" "$@"'),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"#!/bin/sh\n{text}\n")
        (root / path).chmod(0o755)
    (root / "tests" / "test_five.py").write_text(TESTS)
    (root / "pytest.ini").write_text("[pytest]\nmarkers =\n  build: x\n  clients: x\n  bench: x\n")
    return root


def run(checkout: Path, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [checkout / "tests" / "run.sh", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


def test_all_runs_checks_and_all_worlds_and_sums_up(checkout: Path) -> None:
    status, lines = run(checkout)
    assert status == 1
    assert lines[0] == "checked"
    assert lines[-1] == "3 passed, 1 failed, 0 skipped"


def test_a_choice_that_lies_in_one_world_passes(checkout: Path) -> None:
    status, lines = run(checkout, "tests/test_five.py", "-k", "test_torch")
    assert (status, lines[-1]) == (0, "1 passed, 0 failed, 0 skipped")
    assert "checked" not in lines


def test_an_expression_of_ones_own_is_kept(checkout: Path) -> None:
    assert run(checkout, "-m", "bench")[1][-1] == "0 passed, 1 failed, 0 skipped"


def test_nothing_selected_is_no_success(checkout: Path) -> None:
    status, lines = run(checkout, "-k", "no_such_test")
    assert (status, lines[-1]) == (5, "0 passed, 0 failed, 0 skipped")


def test_a_file_that_cannot_be_imported_fails(checkout: Path) -> None:
    (checkout / "tests" / "test_bad.py").write_text("import nothing_of_that_name\n")
    status, lines = run(checkout, "tests/test_bad.py")
    assert status == 1
    assert lines[-1] == "0 passed, 3 failed, 0 skipped"


def test_a_failed_check_fails_the_run(checkout: Path) -> None:
    (checkout / "tests" / "check.sh").write_text("#!/bin/sh\nexit 1\n")
    (checkout / "tests" / "test_five.py").write_text("def test_fine(): pass\n")
    status, lines = run(checkout)
    assert (status, lines[-1]) == (1, "1 passed, 0 failed, 0 skipped")
    assert "./tests/check.sh" in lines[-2]
