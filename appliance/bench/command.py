"""`qwen-appliance bench`: the arguments, and the exit code.

Importing this costs next to nothing; the HTTP client is imported when something is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from appliance.bench.errors import BenchError
from appliance.bench.plan import KINDS, NEW

_USAGE = 2
_INTERRUPTED = 130  # as shells report a process that SIGINT ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `run` reads."""
    add = parser.add_argument
    add(
        "--base-url", required=True, metavar="URL", help="http://HOST:PORT; /v1 is added if no path"
    )
    add("--model", metavar="ID", help="model id (default: the first one the server lists)")
    add("--api-key", metavar="KEY", help="bearer token (default: $OPENAI_API_KEY)")
    add("--json", type=Path, metavar="FILE", help="write everything there, raw samples included")
    add("--requests", type=_count, default=10, metavar="N", help="conversations per line (10)")
    add(
        "--prompt-tokens",
        type=_counts,
        default=(32, 256, 1024),
        metavar="N,...",
        help="prompt sizes, chat template included (32,256,1024)",
    )
    add("--max-tokens", type=_count, default=128, metavar="N", help="tokens per answer (128)")
    add("--concurrency", type=_counts, default=(1,), metavar="N,...", help="requests at once (1)")
    add(
        "--kinds",
        type=_kinds,
        default=KINDS,
        metavar="KIND,...",
        help=f"which requests ({','.join(KINDS)}); new ones are always sent",
    )
    add("--language", choices=("en", "zh", "mixed"), default="en", help="of the prompts (en)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    add("--seed", type=int, metavar="N", help="of the prompts (default: a new one every time)")
    add("--timeout", type=_seconds, default=600.0, metavar="S", help="longest silence waited for")
    add("--extra-body", type=_object, default={}, metavar="JSON", help="more request fields")
    add("--no-system-message", action="store_true", help="for models that refuse one")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit code.

    0: every request was answered whole. 1: at least one failed, or nothing could be measured.
    2: an argument cannot be used. 4: no server answers. 130: interrupted by Ctrl-C.
    """
    import asyncio

    from appliance.bench.client import versioned
    from appliance.bench.session import measure_and_report

    try:
        versioned(args.base_url)
        if args.json is not None:
            args.json.open("ab").close()  # found out now, not after minutes of measuring
    except (BenchError, OSError) as error:
        return _fail(str(error), _USAGE)
    try:
        return asyncio.run(measure_and_report(args))
    except BenchError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was measured to its end", _INTERRUPTED)


def _fail(message: str, exit_code: int) -> int:
    sys.stderr.write(f"qwen-appliance bench: {message}\n")
    return exit_code


def _count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part.strip()) for part in text.split(",")))


def _kinds(text: str) -> tuple[str, ...]:
    wanted = {part.strip() for part in text.split(",")}
    if unknown := wanted.difference(KINDS):
        raise argparse.ArgumentTypeError(f"{min(unknown)!r}: expected some of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in wanted or kind == NEW)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a JSON object")
    return value
