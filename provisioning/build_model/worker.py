"""The child's side of `child.run_in_child`: runs one stage and reports through a pipe.

python -m provisioning.build_model.worker STAGE FILE_DESCRIPTOR PARENT_PID ARGUMENTS_AS_JSON
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from provisioning.build_model.errors import BuildError, DiskError
from provisioning.build_model.sources.base import Checkout, Progress, Stage

_PR_SET_PDEATHSIG = 1


class PipeProgress(Progress):
    """Sends what is to be shown to the parent."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def send(self, **event: Any) -> None:
        """Write one event as a line."""
        self._pipe.write(json.dumps(event) + "\n")
        self._pipe.flush()

    @contextmanager
    def stage(self, name: str, *, unit: str = "") -> Iterator[Stage]:
        """Open a stage on the parent's display; one that fails is ended by the error's event."""
        self.send(stage=name, unit=unit)
        yield _PipeStage(self)
        self.send(end=True)

    def note(self, text: str) -> None:
        """One line of information on the parent's display."""
        self.send(note=text)


class _PipeStage(Stage):
    def __init__(self, progress: PipeProgress) -> None:
        self._progress = progress

    def advance(self, amount: int) -> None:
        self._progress.send(advance=amount)

    def total(self, total: int) -> None:
        self._progress.send(total=total)


def fetch(progress: Progress, *, spec: str, directory: str) -> dict[str, Any]:
    """Bring the source into `directory`."""
    from provisioning.build_model.sources import open_source

    checkout = open_source(spec).fetch(Path(directory), progress)
    return {"path": str(checkout.path), "is_openvino": checkout.is_openvino}


def export(progress: Progress, *, checkout: str, directory: str) -> dict[str, Any]:
    """Export the checkout to a stateful float IR in `directory`."""
    from provisioning.build_model.export import export_stateful

    with progress.stage("export"):
        export_stateful(Path(checkout), Path(directory))
    return {}


def compress(
    progress: Progress, *, model: str, config: str, precision: str, directory: str
) -> dict[str, Any]:
    """Compress the weights of the IR `model` (.xml) and edit it, into `directory`."""
    from provisioning.build_model.compress import compress_and_edit

    with progress.stage("compress"):
        return compress_and_edit(Path(model), Path(config), precision, Path(directory))


def reference(
    progress: Progress, *, checkout: str, is_openvino: bool, text: dict[str, Any], directory: str
) -> dict[str, Any]:
    """Write the original's log-probabilities at the gate's positions into `directory`."""
    from provisioning.build_model.reference import write_reference
    from provisioning.build_model.tokenizer_files import TextSide

    source = Checkout(Path(checkout), is_openvino)
    with progress.stage("reference", unit="prompts") as stage:
        return write_reference(source, TextSide(**text), Path(directory), stage)


def verify(
    progress: Progress, *, model: str, reference: str | None, text: dict[str, Any]
) -> dict[str, Any]:
    """Compare the IR `model` (.xml) with the reference, if there is one; find the golden prompt."""
    from provisioning.build_model.quality import verify_model
    from provisioning.build_model.tokenizer_files import TextSide

    with progress.stage("verify", unit="prompts") as stage:
        return verify_model(
            Path(model), None if reference is None else Path(reference), TextSide(**text), stage
        )


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function for function in (fetch, export, compress, reference, verify)
}


def main(argv: list[str]) -> int:
    """Run the stage named in `argv`; 0 when its result was sent."""
    stage, descriptor, parent, arguments = argv
    _die_with(int(parent))
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as pipe:
        progress = PipeProgress(pipe)
        try:
            progress.send(result=STAGES[stage](progress, **json.loads(arguments)))
        except BuildError as error:
            traceback.print_exc()
            progress.send(error=type(error).__name__, text=str(error))
        except OSError as error:
            traceback.print_exc()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                progress.send(error=DiskError.__name__, text=f"the disk is full: {error}")
            else:
                progress.send(unexpected=_one_line(error))
        # The boundary of this process: whatever a library raises becomes one line for the parent,
        # and a traceback in the log.
        except Exception as error:
            traceback.print_exc()
            progress.send(unexpected=_one_line(error))
        else:
            return 0
    return 1


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, even by SIGKILL.

    A build that runs again must not meet a child of the killed one in the same directory.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
