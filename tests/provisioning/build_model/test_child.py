from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioning.build_model.child import child_environment, run_in_child
from provisioning.build_model.errors import ConversionError, NoSuchModelError
from provisioning.build_model.progress import StageProgress


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


def test_error_of_the_stage_arrives_as_itself(tmp_path: Path, shown: io.StringIO) -> None:
    progress = StageProgress(shown, terminal=False)
    arguments = {"spec": f"dir:{tmp_path}/missing", "directory": str(tmp_path / "fetch")}

    with pytest.raises(NoSuchModelError, match="missing"):
        run_in_child("fetch", arguments, tmp_path / "log", progress, online=True)


def test_surprise_becomes_one_line_that_names_the_log(tmp_path: Path, shown: io.StringIO) -> None:
    progress = StageProgress(shown, terminal=False)
    log = tmp_path / "compress.log"
    arguments = {
        "model": str(tmp_path / "missing.xml"),
        "config": "",
        "precision": "int8",
        "directory": str(tmp_path),
    }

    with pytest.raises(ConversionError, match=str(log)) as caught:
        run_in_child("compress", arguments, log, progress)

    assert "\n" not in str(caught.value)
    assert "Traceback" in log.read_text()
    assert shown.getvalue().splitlines()[1].startswith("compress: failed in")


def test_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """A build that is killed and run again must not meet its own child in the work directory."""
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(
        "import os, sys, time\n"
        "from provisioning.build_model.worker import _die_with\n"
        "_die_with(int(sys.argv[1]))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys\n"
            f"subprocess.run([sys.executable, {str(sleeper)!r}, str(os.getpid())])",
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_libraries_are_kept_off_the_network() -> None:
    offline, online = child_environment(online=False), child_environment(online=True)

    assert offline["HF_HUB_OFFLINE"] == offline["TRANSFORMERS_OFFLINE"] == "1"
    assert online.get("HF_HUB_OFFLINE") == os.environ.get("HF_HUB_OFFLINE")
    assert online["HF_HUB_DISABLE_TELEMETRY"] == offline["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert offline["NNCF_CI"] == "1"
