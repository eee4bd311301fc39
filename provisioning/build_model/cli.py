"""Command line of the build: arguments, signals, exit codes, and the last line that is printed."""

from __future__ import annotations

import argparse
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from appliance.model_dir import Manifest
from provisioning.build_model.build import Order, build
from provisioning.build_model.errors import SpecError
from provisioning.build_model.progress import clock, create_progress
from provisioning.build_model.sources import SCHEMES

DEFAULT_SOURCE = "hf:Qwen/Qwen2.5-0.5B-Instruct"
PRECISIONS = ("int8", "int4")


def run(argv: Sequence[str]) -> None:
    """Build what `argv` asks for. Raises `BuildError`; `Interrupted` on SIGINT and SIGTERM."""
    order = parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    progress, started = create_progress(), time.monotonic()
    outcome = build(order, progress)
    if outcome.published:
        progress.note(summary(order.out, outcome.manifest, time.monotonic() - started))


class Interrupted(BaseException):
    """A signal asked the build to end; what was finished is kept for the next run."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(
            f"ended by {signal.Signals(number).name}; the same command goes on where this stopped"
        )


def parse(argv: Sequence[str]) -> Order:
    """The command line as an order. Ends the process with code 2 on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="build-model.sh",
        description="Make a model directory: fetch, convert, compress, verify, publish.",
    )
    parser.add_argument(
        "--source",
        default=DEFAULT_SOURCE,
        metavar="SRC",
        help=", ".join(SCHEMES) + "; default: %(default)s",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the model directory"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="int8", help="default: %(default)s"
    )
    parser.add_argument("--name", help="the id the model is served under; default: the source's")
    given = parser.parse_args(argv)
    if given.name == "":
        raise SpecError("--name is empty; leave it out to take the source's own name")
    return Order(given.source, given.out.expanduser().resolve(), given.precision, given.name)


def summary(out: Path, manifest: Manifest, elapsed_s: float) -> str:
    """One line: what was published, how good, how large, and what it took."""
    size = sum(entry.size_bytes for entry in manifest.files.values())
    quality = manifest.quality
    figures = (
        "quality not measured (came compressed)"
        if quality is None
        else f"top-1 {quality.top1_agreement:.2%}, KL {quality.mean_kl:.4f}"
    )
    return (
        f"{manifest.name}: {manifest.weights.precision}, {size / 1e6:.0f} MB, {figures}, "
        f"took {clock(elapsed_s)} and at most {peak_bytes() / 1e9:.2f} GB of memory -> {out}"
    )


def peak_bytes() -> int:
    """Most memory resident at once: this process and the hungriest of its children."""
    return 1024 * sum(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
