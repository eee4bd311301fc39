"""`qwen-appliance doctor`: arguments, what is printed, and the exit code."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

from appliance.config import LoadedConfig, load_from_arguments
from appliance.config import add_arguments as add_settings
from appliance.errors import ConfigError

PROBLEMS_FOUND = 8
"""The exit code when something is wrong; no error ends with it."""

_INTERRUPTED = 130  # as shells report a process that SIGINT ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the service's settings, and what to leave out."""
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--no-measure", action="store_true", help="do not measure memory, which takes a second"
    )
    parser.add_argument(
        "--no-checksums", action="store_true", help="check the model's sizes only, not its sha256"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine and print; 0, or 8 if a problem was found. Raises `ConfigError` for an argument."""
    loaded, fault = _settings(args)
    # Imported here, since other verbs do without.
    from appliance.doctor.box import Box
    from appliance.doctor.examination import examine, worst
    from appliance.doctor.measuring import read_memory
    from appliance.doctor.report import as_json, as_text
    from appliance.tune.host.places import InstalledTools
    from appliance.tune.host.plan import Machine

    box = Box(
        Machine(Path("/"), InstalledTools(), frozenset(os.sched_getaffinity(0))),
        loaded,
        os.environ,
        meter=None if args.no_measure else read_memory,
        checksums=not args.no_checksums,
        config_fault=fault,
    )
    try:
        sections = examine(box)
    except KeyboardInterrupt:
        sys.stderr.write("qwen-appliance doctor: interrupted\n")
        return _INTERRUPTED
    if args.json:
        now = datetime.datetime.now(datetime.timezone.utc)
        sys.stdout.write(as_json(sections, now.isoformat(timespec="seconds")))
    else:
        for line in as_text(sections):
            sys.stdout.write(f"{line}\n")
    return PROBLEMS_FOUND if worst(sections) == "problem" else 0


def _settings(args: argparse.Namespace) -> tuple[LoadedConfig, ConfigError | None]:
    """The settings; where a file or a variable is wrong, the defaults, the arguments and why."""
    try:
        return load_from_arguments(args, os.environ), None
    except ConfigError as error:
        if error.source.startswith("argument"):
            raise
        without = argparse.Namespace(**{**vars(args), "config": Path(os.devnull)})
        return load_from_arguments(without, {}), error
