"""The preflight on machines that we do not have: every problem, all at once."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import fake_machine

FILE = Path(__file__).parents[2] / "provisioning/roles/box/files/preflight.py"


def load() -> ModuleType:
    """It is no module of a package: a box runs it from its standard input."""
    spec = importlib.util.spec_from_file_location("preflight", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


preflight = load()
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian'


def wanted(**changes: Any) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {
        "base": "/opt/qwen-appliance",
        "python": sys.executable,
        "port": port,
        "min_memory_mb": 1800,
        "may_install": False,
        "brings_pip": False,
        "now": time.time(),
        "disk_mb": {"/opt": 1, "/var/lib/qwen-appliance": 1},
        **changes,
    }


def machine(
    root: Path, *, os_release: str = DEBIAN, flags: str = "avx avx2", mb: int = 8000
) -> str:
    fake_machine.write(
        root,
        {
            "etc/os-release": os_release,
            "proc/cpuinfo": f"processor : 0\nflags\t\t: {flags}",
            "proc/meminfo": f"MemTotal:       {mb * 1024} kB",
        },
    )
    (root / "run/systemd/system").mkdir(parents=True)
    return str(root)


def problems(told: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["text"] for one in told["problems"]}


def test_a_box_that_is_in_order(tmp_path: Path) -> None:
    told = preflight.Preflight(wanted(), machine(tmp_path)).run()
    # Of the machine that tests: not root everywhere, nor with a systemd.
    assert set(problems(told)) <= {"root", "systemd"}
    assert told["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="AVX2 is asked of x86-64")
def test_all_problems_come_at_once(tmp_path: Path) -> None:
    root = machine(
        tmp_path, os_release='ID=fedora\nVERSION_ID=43\nPRETTY_NAME="Fedora"', flags="sse2", mb=900
    )
    (tmp_path / "run/systemd/system").rmdir()
    (tmp_path / "opt/qwen-appliance/venv").mkdir(parents=True)
    told = preflight.Preflight(
        wanted(
            python="/nowhere/python3",
            now=time.time() - 7200,
            disk_mb={"/opt": 1 << 30, "/var/lib/qwen-appliance": 1},
        ),
        root,
    ).run()
    found = problems(told)
    assert set(found) - {"root"} == {
        *("system", "cpu", "memory", "disk", "python", "systemd", "clock", "place")
    }
    assert "Fedora" in found["system"] and "900 MB" in found["memory"]
    # Both are on one disk, so both count together.
    assert "/opt and /var/lib/qwen-appliance, 1073741825 needed" in found["disk"]
    assert "7200 s ahead" in found["clock"]


def test_a_port_that_another_has_is_a_problem_and_says_whose(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check = preflight.Preflight(wanted(port=taken.getsockname()[1]))
        check.port()
    assert f"(process {os.getpid()})" in problems({"problems": check.problems})["port"]


def test_a_python_without_venv_is_one_only_if_nothing_can_be_installed(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho '[[3, 9], false]'\n")
    python.chmod(0o755)
    check = preflight.Preflight(wanted(python=str(python)), machine(tmp_path / "root"))
    check.python()
    found = problems({"problems": check.problems})
    assert set(found) == {"python", "venv"} and "3.9" in found["python"]
    assert check.told["needs_venv"]
    check = preflight.Preflight(wanted(python=str(python), brings_pip=True))
    check.python()
    assert set(problems({"problems": check.problems})) == {"python"}
    assert not check.told["needs_venv"]
