"""Runs one stage of a build in a process of its own.

Torch and the IR of one stage must not take memory from the next, and only a process gives all of
it back: the peak of a build is the peak of its hungriest stage. What libraries print goes into a
log file. The stage's progress and its end arrive as JSON lines on a pipe:

    {"stage": "export", "unit": ""}   {"total": 40}   {"advance": 1}   {"end": true}
    {"note": "text"}   {"result": {...}}   {"error": "DiskError", "text": "..."}
    {"unexpected": "RuntimeError: ..."}
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from provisioning.build_model import errors
from provisioning.build_model.errors import BuildError, ConversionError, DiskError
from provisioning.build_model.sources.base import Progress, Stage

_WORKER = "provisioning.build_model.worker"
_REPOSITORY = Path(__file__).resolve().parents[2]
_FULL_BYTES = 16 << 20

# Nobody is phoned from a build: hub clients stay on the disk, telemetry of OpenVINO and NNCF is off
# (both leave it be in CI). Bars of libraries would only fill the log.
_QUIET = {
    "CI": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NNCF_CI": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def run_in_child(
    stage: str, arguments: dict[str, Any], log: Path, progress: Progress, *, online: bool = False
) -> dict[str, Any]:
    """Run `stage` of `worker.STAGES` with `arguments` (JSON) and return its result (JSON).

    Raises the `BuildError` the stage raised; a `ConversionError` that names `log` when it ended in
    any other way; `DiskError` when the disk ran full meanwhile. Only with `online` may the stage
    use the network. The child never outlives this call, nor this process.
    """
    read_end, write_end = os.pipe()
    isolated = ["-I"] if sys.flags.isolated else []
    command = [sys.executable, *isolated, "-m", _WORKER, stage, str(write_end), str(os.getpid())]
    with log.open("ab") as output, os.fdopen(read_end, encoding="utf-8") as events:
        try:
            child = subprocess.Popen(
                [*command, json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environment(online=online),
                pass_fds=[write_end],
                # Ctrl-C is for the parent, which then ends its child in order.
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        try:
            return _relay(events, progress)
        except _StageFailed as failed:
            raise _error_of(stage, failed.event, child.wait(), log) from None
        finally:
            _end(child)


class _StageFailed(Exception):
    """The stage sent `event` (an error), or ended without a word."""

    def __init__(self, event: dict[str, Any]) -> None:
        self.event = event
        super().__init__(event.get("text", ""))


def child_environment(*, online: bool) -> dict[str, str]:
    """The environment of a stage: quiet, and unless `online`, with every hub client offline."""
    path = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
    offline = {} if online else _OFFLINE
    return {**os.environ, **_QUIET, **offline, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _relay(events: IO[str], progress: Progress) -> dict[str, Any]:
    """Show events until the result comes. Raises `_StageFailed` within the stage being shown."""
    stage: Stage | None = None
    with ExitStack() as running:
        for line in events:
            event: dict[str, Any] = json.loads(line)
            if "result" in event:
                result: dict[str, Any] = event["result"]
                return result
            if "error" in event or "unexpected" in event:
                raise _StageFailed(event)
            if "stage" in event:
                stage = running.enter_context(progress.stage(event["stage"], unit=event["unit"]))
            elif "note" in event:
                progress.note(event["note"])
            elif "end" in event:
                running.close()
            elif stage is not None and "total" in event:
                stage.total(event["total"])
            elif stage is not None:
                stage.advance(event["advance"])
        raise _StageFailed({})


def _end(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child that is done; end one that is not."""
    try:
        child.wait(timeout=0 if sys.exc_info()[0] else 20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _error_of(stage: str, event: dict[str, Any], code: int, log: Path) -> BuildError:
    if shutil.disk_usage(log.parent).free < _FULL_BYTES:
        return DiskError(
            f"{log.parent}: the disk ran full during stage {stage}; make room and run it again"
        )
    if "error" in event:
        kind: type[BuildError] = getattr(errors, event["error"])
        return kind(event["text"])
    if "unexpected" in event:
        return ConversionError(f"stage {stage} failed: {event['unexpected']}; its log is {log}")
    if code == -signal.SIGKILL:
        return ConversionError(
            f"stage {stage} was killed, most likely because memory ran out; its log is {log}"
        )
    return ConversionError(f"stage {stage} ended with code {code} and no word; its log is {log}")
