"""`qwen-appliance tune host`: arguments, what is printed, and the exit code."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import HostTuningError

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do, of which one must be given."""
    action = parser.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("apply", "set the knobs, and remember what they held"),
        ("restore", "give them back what they held"),
        ("status", "show what they hold"),
    ):
        action.add_argument(f"--{name}", dest="action", action="store_const", const=name, help=text)
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="knobs to set otherwise (default: /etc/qwen-appliance/tune.yaml if it exists)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it and print a line per place; the exit code.

    0 also for knobs that this machine does not have, 7 if one that it has refused. Raises
    `ConfigError` for a profile that cannot be used, `HostTuningError` without root.
    """
    from appliance.tune.host.host import apply, restore, status
    from appliance.tune.host.places import InstalledTools
    from appliance.tune.host.plan import Machine
    from appliance.tune.host.profile import OWN, read_profile

    if args.action != "status" and os.geteuid() != 0:
        raise HostTuningError(f"tune host --{args.action} needs root; --status does not")
    profile = read_profile(args.profile or (OWN if OWN.exists() else None))
    machine = Machine(Path("/"), InstalledTools(), frozenset(os.sched_getaffinity(0)))
    if args.action == "restore":
        outcomes = restore(machine)
    else:
        outcomes = (apply if args.action == "apply" else status)(profile, machine)
    for outcome in outcomes:
        sys.stdout.write(f"{outcome.knob}: {outcome.text}\n")
    if not outcomes:
        sys.stdout.write("nothing to restore\n")
    return HostTuningError.exit_code if any(one.has_failed for one in outcomes) else 0
