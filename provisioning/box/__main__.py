"""`python -m provisioning.box WHAT ...`: one step on a box; what it found, as JSON on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from appliance.errors import ApplianceError
from provisioning.box.calibrate import calibrate
from provisioning.box.models import Models
from provisioning.box.places import Places
from provisioning.box.upgrade import Upgrade
from provisioning.box.verify import Budget, verify


def main() -> int:
    """The command; 1 and one line on stderr when the step failed."""
    args = _parser().parse_args()
    places = Places()
    try:
        told = _step(args, places)
    except (ApplianceError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def _step(args: argparse.Namespace, places: Places) -> object:
    upgrade = Upgrade(places)
    if args.step == "check-model":
        Models(places).check(args.name)
    elif args.step == "begin":
        upgrade.begin(args.release, args.model, args.files)
    elif args.step == "publish-model":
        upgrade.publish_model(args.name)
    elif args.step == "commit":
        upgrade.commit(args.release, args.model)
    elif args.step == "roll-back":
        return {"release": upgrade.roll_back()}
    elif args.step == "calibrate":
        return calibrate(args.seconds)
    elif args.step == "verify":
        budget = Budget(args.ttft_budget_ms, args.itl_budget_ms)
        return verify(
            args.url, args.model_dir, budget, measure=args.measure, timeout_s=args.timeout
        )
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="provisioning.box")
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("check-model", "publish-model"):
        steps.add_parser(name).add_argument("name")
    for name in ("begin", "commit"):
        step = steps.add_parser(name)
        step.add_argument("release")
        step.add_argument("model")
        if name == "begin":
            step.add_argument("files", nargs="*")
    steps.add_parser("roll-back")
    steps.add_parser("calibrate").add_argument("--seconds", type=float, required=True)
    check = steps.add_parser("verify")
    check.add_argument("--url", required=True)
    check.add_argument("--model-dir", type=Path, required=True)
    check.add_argument("--timeout", type=float, required=True)
    check.add_argument("--ttft-budget-ms", type=float, required=True)
    check.add_argument("--itl-budget-ms", type=float, required=True)
    check.add_argument("--measure", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
