"""Which Python a bare machine's venvs are made with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def find_python(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    dirname = shutil.which("dirname")
    assert bash and dirname
    (path / "dirname").symlink_to(dirname)
    return subprocess.run(
        [bash, "-c", f"source '{ROOT}/provisioning/python.sh' && find_python"],
        env={"PATH": str(path)} | environment,
        capture_output=True,
        text=True,
    )


def test_python3_is_taken_when_it_is_new_enough(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    assert find_python(tmp_path).stdout == "python3\n"


def test_another_python_is_taken_when_python3_is_too_old(tmp_path: Path) -> None:
    program(tmp_path / "python3", "#!/bin/sh\nexit 1\n")  # what an old one answers to the question
    (tmp_path / "python3.12").symlink_to(sys.executable)
    assert find_python(tmp_path).stdout == "python3.12\n"


def test_no_fitting_python_is_one_line(tmp_path: Path) -> None:
    run = find_python(tmp_path)
    assert run.returncode == 1
    assert "no Python 3.10 to 3.13 on PATH" in run.stderr


def test_a_python_that_was_named_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    run = find_python(tmp_path, PYTHON="/nonexistent/python3.12")
    assert run.returncode == 1
    assert "PYTHON=/nonexistent/python3.12 is not a Python 3.10 to 3.13" in run.stderr
