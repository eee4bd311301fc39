"""`qwen-appliance tune`: the arguments; of `tune engine`, what is printed and the exit code.

Importing this costs next to nothing; the backends are imported when something is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.config import add_arguments as add_settings
from appliance.config import load_from_arguments
from appliance.tune.host import command as host_command

if TYPE_CHECKING:
    from appliance.tune.session import Tuned

_DEFAULT_SECONDS = 90.0
_INTERRUPTED = 130  # as shells report a process that SIGINT ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be tuned, each with its arguments and a `run`."""
    parts = parser.add_subparsers(required=True, metavar="PART")
    engine = parts.add_parser(
        "engine", help="try the engine's settings on this machine and keep the fastest"
    )
    add_settings(engine)
    engine.add_argument(
        "--out", type=Path, metavar="FILE", help="result (default: engine.calibration_file)"
    )
    engine.add_argument(
        "--seconds",
        type=_seconds,
        default=_DEFAULT_SECONDS,
        metavar="S",
        help=f"time for all of it ({_DEFAULT_SECONDS:g}); the default is measured in any case",
    )
    engine.add_argument("--json", action="store_true", help="print the result as JSON")
    engine.set_defaults(run=_tune_engine)
    host = parts.add_parser("host", help="set this machine's knobs, such as its clock rates")
    host_command.add_arguments(host)


def _tune_engine(args: argparse.Namespace) -> int:
    """Measure, write, print; the exit code.

    0: the file is written, whoever won. 130: interrupted, nothing is written. Raises `ConfigError`
    (also for a file that cannot be written), `ModelDirError`, `BackendError`.
    """
    started = time.monotonic()
    loaded = load_from_arguments(args, os.environ)
    from appliance.tune.contest import TimeBox
    from appliance.tune.session import tune_engine

    def tell(name: str) -> None:
        elapsed = time.monotonic() - started
        sys.stderr.write(f"{elapsed:5.1f} of {args.seconds:g} s: {name}\n")

    try:
        tuned = tune_engine(
            loaded, out=args.out, time_box=TimeBox(started + args.seconds), tell=tell
        )
    except KeyboardInterrupt:
        sys.stderr.write("qwen-appliance tune: interrupted; nothing was written\n")
        return _INTERRUPTED
    _print(tuned, as_json=args.json)
    return 0


def _print(tuned: Tuned, *, as_json: bool) -> None:
    from appliance.tune.calibration import to_json
    from appliance.tune.report import as_table

    if as_json:
        sys.stdout.write(to_json(tuned.calibration))
        return
    for line in as_table(tuned.calibration):
        sys.stdout.write(f"{line}\n")
    for key in tuned.left_alone:
        sys.stdout.write(f"left alone, as it is set already: {key}\n")
    sys.stdout.write(f"written to {tuned.path}\n")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds
