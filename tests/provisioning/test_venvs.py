"""Virtual environments: made once, made anew when stale or half made, never twice at a time."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.lanes import Lane, run_all
from provisioning.world import STAMP, Venv, VenvError, World

ROOT = Path(__file__).resolve().parents[2]
BARE = World(".venv-x")
LOCKED = World(".venv-x", lock="run.lock")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose locks ask for nothing, at a path with a space; pip's set-up is left out."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    root = tmp_path / "a check out"
    (root / "provisioning" / "requirements").mkdir(parents=True)
    for name in ("__init__.py", "lanes.py", "venvs.py", "world.py"):
        shutil.copy(ROOT / "provisioning" / name, root / "provisioning")
    for lock in ("run", "build", "test"):
        (root / "provisioning" / "requirements" / f"{lock}.lock").write_text("# nothing\n")
    (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return root


def made(root: Path, world: World) -> Venv:
    """The venv after one run; raises what the run ended with."""
    venv = Venv(root, world)
    lane = Lane(world.directory, venv.make)
    run_all([lane], at_once=1, out=io.StringIO())
    if lane.error:
        raise lane.error
    return venv


def test_a_venv_runs_python_and_sees_the_checkout(checkout: Path) -> None:
    venv = made(checkout, BARE)
    assert venv.is_ready()
    (checkout / "marker_module.py").write_text("answer = 42\n")
    script = "import marker_module, sys; sys.exit(marker_module.answer)"
    assert subprocess.run([venv.python, "-I", "-c", script]).returncode == 42


def test_a_ready_venv_is_left_alone(checkout: Path) -> None:
    venv = made(checkout, BARE)
    (venv.path / "kept").touch()
    made(checkout, BARE)
    assert (venv.path / "kept").exists()


def test_a_half_made_venv_is_made_anew(checkout: Path) -> None:
    venv = made(checkout, BARE)
    (venv.path / STAMP).unlink()
    (venv.path / "lib" / "half").mkdir()
    (venv.path / "lib" / "half" / "written").touch()
    assert not venv.is_ready()
    made(checkout, BARE)
    assert venv.is_ready()
    assert not (venv.path / "lib" / "half").exists()


def test_another_lock_makes_the_venv_stale(checkout: Path) -> None:
    venv = made(checkout, BARE)
    assert not Venv(checkout, LOCKED).is_ready()
    assert venv.is_ready()


def test_a_moved_checkout_makes_the_venv_stale(checkout: Path) -> None:
    made(checkout, BARE)
    moved = checkout.rename(checkout.with_name("moved"))
    assert not Venv(moved, BARE).is_ready()


def test_a_venv_whose_python_was_removed_is_stale(checkout: Path) -> None:
    venv = made(checkout, BARE)
    venv.python.unlink()
    venv.python.symlink_to("/nonexistent/python")
    assert not venv.is_ready()


def test_what_pip_cannot_install_is_said_with_the_end_of_the_log(checkout: Path) -> None:
    lock = checkout / "provisioning" / "requirements" / "run.lock"
    lock.write_text(f"./absent-1-py3-none-any.whl --hash=sha256:{'0' * 64}\n")
    with pytest.raises(VenvError, match=r"(?s)\.venv-x could not be made.*install\.log.*absent"):
        made(checkout, LOCKED)
    assert not Venv(checkout, LOCKED).is_ready()


def test_two_at_once_make_it_once(checkout: Path) -> None:
    lanes = [Lane(str(i), Venv(checkout, BARE).make) for i in range(2)]
    run_all(lanes, at_once=2, out=io.StringIO())
    assert [lane.error for lane in lanes] == [None, None]
    assert sorted(lane.log is None for lane in lanes) == [False, True]  # one did, one found it done


def test_an_interrupted_run_ends_what_it_started_and_leaves_no_stamp(checkout: Path) -> None:
    command = [sys.executable, checkout / "provisioning" / "venvs.py", "run"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    programs = str(checkout / ".venv" / "bin")
    try:
        wait_until(lambda: num_running(programs) > 0)  # not run's child: the venv module's
    finally:
        run.send_signal(signal.SIGTERM)
        _, stderr = run.communicate(timeout=20)
    assert run.returncode == 130
    assert "interrupted" in stderr
    wait_until(lambda: num_running(programs) == 0)
    assert not (checkout / ".venv" / STAMP).exists()


def num_running(directory: str) -> int:
    """How many processes run a program of `directory`."""
    num = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            num += path.read_bytes().startswith(directory.encode() + b"/")
    return num


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


def test_an_unknown_world_is_refused() -> None:
    command = [sys.executable, ROOT / "provisioning" / "venvs.py", "nowhere"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "'nowhere'" in run.stderr and "build-test" in run.stderr


def without_ensurepip(checkout: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """A run on a Debian whose Python came without python3-venv."""
    script = (
        "import runpy, sys; sys.modules['ensurepip'] = None; sys.argv[1:] = ['run']; "
        f"runpy.run_path({str(checkout / 'provisioning' / 'venvs.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True)


def test_a_missing_venv_module_is_one_line_with_the_way_out(checkout: Path, tmp_path: Path) -> None:
    run = without_ensurepip(checkout, tmp_path)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "sudo apt install python3" in line and line.endswith("-venv")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_root_installs_the_missing_venv_module(checkout: Path, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text('#!/bin/sh\necho "apt $*" >&2\n[ "$1" = update ]\n')
    apt.chmod(0o755)
    run = without_ensurepip(checkout, tmp_path)
    assert run.returncode == 1
    assert "apt update -qq\napt install -y -qq python3" in run.stderr
    assert "failed; install python3" in run.stderr.splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_the_clock_run_and_the_log_move(tmp_path: Path) -> None:
    release = threading.Event()

    def body(lane: Lane) -> None:
        lane.log = tmp_path / "log"
        lane.log.write_text("Collecting things\n\n")
        release.wait(10)

    out = Terminal()
    lane = Lane(".venv-y", body)
    timer = threading.Timer(0.6, release.set)
    timer.start()
    run_all([lane], at_once=1, out=out)
    timer.join()
    assert "\r\x1b[K.venv-y 0 s  Collecting things" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K.venv-y: ready after 1 s\n")


def test_one_failing_lane_does_not_stop_the_other() -> None:
    def fail(lane: Lane) -> None:
        raise VenvError("no")

    out = io.StringIO()
    done = threading.Event()
    lanes = [Lane("bad", fail), Lane("good", lambda lane: done.set())]
    run_all(lanes, at_once=1, out=out)
    assert done.is_set()
    assert isinstance(lanes[0].error, VenvError) and lanes[1].error is None
    assert "bad: failed after" in out.getvalue() and "good: ready after" in out.getvalue()
