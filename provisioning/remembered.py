"""What `provision.sh` was told with `-e`, remembered for its next runs on this machine.

    remembered.py FILE [--keep] VARIABLES...

VARIABLES as Ansible takes them: `KEY=VALUE`, a JSON object, `@FILE`. Prints those of FILE and these
as one JSON object, the later ones winning; `--keep` writes FILE. An upgrade would otherwise undo
what was asked for: a port, an address. Models and wheels are of one run, and are not remembered.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PREFIX = "qwen_appliance_"
OF_ONE_RUN = ("state", "keep_", "key_file", "model_", "wheels", "ignored_")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 and one line for variables that cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("variables", nargs="*")
    args = parser.parse_args(arguments)
    try:
        told = remembered(args.file)
        for one in args.variables:
            told |= parsed(one)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"provision: {error}\n")
        return 2
    if args.keep:
        keep(args.file, told)
    else:
        sys.stdout.write(json.dumps(told) + "\n")
    return 0


def remembered(file: Path) -> dict[str, Any]:
    """What is in `file`; nothing when it is not there. Raises `ValueError`."""
    try:
        return _object(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        return {}


def parsed(text: str) -> dict[str, Any]:
    """Variables of one `-e`, as Ansible reads them. Raises `ValueError`, `OSError`."""
    if text.startswith("@"):
        return _object(Path(text[1:]).read_text(encoding="utf-8"), text)
    if text.startswith("{"):
        return _object(text, f"-e {text}")
    pairs = [word.partition("=") for word in shlex.split(text)]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"-e {text}: expected KEY=VALUE, a JSON object or @FILE")
    return {key: value for key, _, value in pairs}


def keep(file: Path, told: dict[str, Any]) -> None:
    """Write `file`, root's alone: a token may be in it. Nothing to remember: there is none."""
    kept = {
        name: value
        for name, value in told.items()
        if name.startswith(PREFIX) and not name.removeprefix(PREFIX).startswith(OF_ONE_RUN)
    }
    if not kept:
        file.unlink(missing_ok=True)
        return
    partial = file.with_name(f".{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as opened:
        opened.write(json.dumps(kept, indent=2) + "\n")
    partial.replace(file)


def _object(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        told = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: neither JSON nor YAML: {error}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{where}: expected an object of variables")
    return told


if __name__ == "__main__":
    sys.exit(main())
