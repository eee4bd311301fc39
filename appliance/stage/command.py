"""`qwen-appliance stage`: arguments, what is said, and the exit code."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from appliance.config import add_arguments as add_settings
from appliance.config import load_from_arguments
from appliance.errors import ConfigError
from appliance.meminfo import read_meminfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where from and where to."""
    add_settings(parser)
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the copy goes; DIR/current is what to serve",
    )
    parser.add_argument(
        "--no-copy",
        action="store_true",
        help="check only, and let DIR/current point to the model directory itself",
    )


def run(args: argparse.Namespace) -> int:
    """Stage and say what is served; the exit code. Raises `ConfigError`, `ModelDirError`."""
    started = time.monotonic()
    config = load_from_arguments(args, os.environ).config
    if config.model.dir is None:
        raise ConfigError("model.dir", None, "needed; give --model DIR")
    from appliance.stage.staging import CURRENT, stage

    staged = stage(config.model.dir, args.to, copy=not args.no_copy, memory_bytes=_available_bytes)
    for error in staged.refused:
        sys.stderr.write(f"qwen-appliance stage: refused: {error}\n")
    if staged.refused:
        sys.stderr.write("qwen-appliance stage: the previous model takes its place\n")
    how = "copied" if staged.no_copy_because is None else "not copied: " + staged.no_copy_because
    sys.stdout.write(
        f"{args.to / CURRENT} is {staged.model_dir}, {staged.num_bytes / 1e6:.0f} MB, every sha256 "
        f"right, {how}; {time.monotonic() - started:.1f} s\n"
    )
    return 0


def _available_bytes() -> int:
    """Memory that can be had without swapping (proc(5), `MemAvailable`)."""
    return read_meminfo()["MemAvailable"]
