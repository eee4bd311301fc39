"""`qwen-appliance bench`: arguments in, table and JSON out."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import secrets
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

import appliance
from appliance.bench.client import BenchError, ChatClient, versioned
from appliance.bench.machine import this_machine
from appliance.bench.measure import KINDS, NEW, Measured, Plan, measure
from appliance.bench.report import Summary, as_json, remarks, summarize, table

JSON_FORMAT = 1

_USAGE = 2


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
    2: an argument cannot be used. 4: no server answers.
    """
    try:
        versioned(args.base_url)
        if args.json is not None:
            args.json.open("ab").close()  # found out now, not after minutes of measuring
    except (BenchError, OSError) as error:
        return _fail(str(error), _USAGE)
    try:
        return asyncio.run(_run(args))
    except BenchError as error:
        return _fail(str(error), error.exit_code)


async def _run(args: argparse.Namespace) -> int:
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = this_machine()
    client = ChatClient(
        args.base_url,
        api_key=args.api_key or os.environ.get("OPENAI_API_KEY"),
        timeout_s=args.timeout,
        body={"temperature": args.temperature, **args.extra_body},
    )
    async with client:
        plan = _plan(args, await _choose_model(client, args.model))
        _say(
            f"{plan.model} at {client.base_url}, seed {plan.seed}; client: {machine.cpu_model}, "
            f"governor {machine.governor}, {machine.kernel}"
        )
        measured = await measure(client, plan, _show)
    summaries = summarize(measured, plan.max_tokens)
    for line in (*table(summaries), *remarks(measured, summaries, plan.max_tokens)):
        _say(line)
    if args.json is not None:
        document = {
            "format": JSON_FORMAT,
            "started": started,
            "client": {**_versions(), "machine": dataclasses.asdict(machine)},
            "server": {"base_url": client.base_url, "takes_stream_options": client.asks_usage},
            "parameters": {
                **dataclasses.asdict(plan),
                "temperature": args.temperature,
                "timeout_s": args.timeout,
                "extra_body": args.extra_body,
            },
            **_results(measured, summaries),
        }
        _write(args.json, document)
    return 1 if any(summary.num_failed for summary in summaries) else 0


def _plan(args: argparse.Namespace, model: str) -> Plan:
    return Plan(
        model=model,
        num_requests=args.requests,
        prompt_tokens=args.prompt_tokens,
        max_tokens=args.max_tokens,
        concurrency=args.concurrency,
        kinds=args.kinds,
        language=args.language,
        system_message=not args.no_system_message,
        seed=secrets.randbits(32) if args.seed is None else args.seed,
    )


async def _choose_model(client: ChatClient, wanted: str | None) -> str:
    served = await client.served_models()  # also when one is wanted: shows that the server is there
    if wanted is not None:
        return wanted
    if not served:
        raise BenchError(f"{client.base_url}/models lists no model; name one with --model")
    return served[0]


def _results(measured: Measured, summaries: list[Summary]) -> dict[str, Any]:
    return {
        "calibration": dataclasses.asdict(measured.calibration),
        "summaries": [
            {**dataclasses.asdict(summary), "row": summary.row._asdict()} for summary in summaries
        ],
        "samples": [as_json(sample) for sample in measured.samples],
    }


def _versions() -> dict[str, str]:
    return {
        "qwen_appliance": appliance.__version__,
        "python": platform.python_version(),
        "httpx": httpx.__version__,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _show(text: str) -> None:
    """One line that the next one overwrites on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _say(line: str) -> None:
    _show("")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fail(message: str, exit_code: int) -> int:
    _show("")
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
