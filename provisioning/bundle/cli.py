"""Command line: `make`, `unpack`, `provision`. `provision.sh` calls the first and the last."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from provisioning.bundle.contents import CODE
from provisioning.bundle.errors import BundleError
from provisioning.bundle.target import PYTHONS, parse_targets
from provisioning.bundle.use import VARIABLES, prepare

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ".bundle"


def main(argv: Sequence[str]) -> int:
    """Exit status 1 when it could not be done, and one line that says why."""
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = _parser().parse_args(argv)
    try:
        if arguments.verb == "make":
            _make(arguments)
        elif arguments.verb == "unpack":
            _unpack(arguments)
        else:
            _provision(arguments)
    except (BundleError, OSError) as error:
        sys.stderr.write(f"bundle: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("bundle: interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bundle", description="One file that provisions boxes without internet."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="download the wheels and write the file")
    make.add_argument("file", type=Path, metavar="FILE")
    make.add_argument(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="a ready model directory; default: the only one below models/",
    )
    make.add_argument(
        "--bundle-python",
        metavar="VERSION[,...]",
        help=f"Python of the boxes, of {', '.join(PYTHONS)}; default: this one's",
    )
    make.add_argument(
        "--bundle-arch", metavar="ARCH[,...]", help="x86_64, aarch64; default: this machine's"
    )
    unpack = verbs.add_parser("unpack", help="for the machine that provisions a fleet")
    unpack.add_argument("file", type=Path, metavar="FILE")
    unpack.add_argument("directory", type=Path, metavar="DIR")
    provision = verbs.add_parser("provision", help="provision this machine")
    provision.add_argument("file", type=Path, metavar="FILE")
    provision.add_argument("options", nargs=argparse.REMAINDER, help="of provision.sh")
    return parser


def _make(arguments: argparse.Namespace) -> None:
    # Needs what the provisioning venv holds; the other verbs run before there is one.
    from provisioning.bundle.make import Order, make

    model_dir = arguments.model_dir or _only_model()
    targets = parse_targets(arguments.bundle_python, arguments.bundle_arch)
    made = make(Order(arguments.file, ROOT, model_dir, targets), _say)
    print(  # noqa: T201
        f"{arguments.file}: {made.size_bytes / 1e6:.0f} MB, qwen-appliance "
        f"{made.contents.version} with {made.contents.model}\n"
        f"for {'; '.join(map(str, targets))}\n"
        f"sha256 {made.sha256}\n"
        f"on a box:\n  tar -xf {arguments.file.name} {CODE}\n"
        f"  sudo ./{CODE}/provisioning/provision.sh --from-bundle {arguments.file.name}"
    )


def _only_model() -> Path:
    found = sorted(path.parent for path in (ROOT / "models").glob("*/manifest.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BundleError(f"which model? --model-dir DIR (below {ROOT / 'models'}: {names})")
    return found[0]


def _unpack(arguments: argparse.Namespace) -> None:
    prepare(arguments.file, arguments.directory)
    code = arguments.directory / CODE
    print(  # noqa: T201
        f"a fleet:\n  {code}/.venv-provision/bin/ansible-playbook -i inventory.yml \\\n"
        f"    -e @{arguments.directory / VARIABLES} {code}/provisioning/playbook.yml"
    )


def _provision(arguments: argparse.Namespace) -> NoReturn:
    for option in arguments.options:
        if option.startswith(("--source", "--model-dir")):
            raise BundleError(f"{option}: the model is the bundle's")
    directory = ROOT / UNPACKED
    contents = prepare(arguments.file, directory)
    _say(f"{arguments.file}: whole; qwen-appliance {contents.version} with {contents.model}")
    script = str(directory / CODE / "provisioning" / "provision.sh")
    sys.stderr.flush()
    variables = (directory / VARIABLES).read_text(encoding="utf-8").strip()
    os.execv(script, [script, "-e", variables, *arguments.options])  # noqa: S606


def _say(text: str) -> None:
    sys.stderr.write(f"bundle: {text}\n")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
