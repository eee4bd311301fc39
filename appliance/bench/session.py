"""One measurement from parsed arguments to the table on stdout and the JSON file."""

from __future__ import annotations

import argparse
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
from appliance.bench.client import ChatClient
from appliance.bench.errors import BenchError
from appliance.bench.machine import Machine, this_machine
from appliance.bench.measure import Measured, measure
from appliance.bench.plan import Plan
from appliance.bench.report import Summary, as_json, remarks, summarize, table

JSON_FORMAT = 1


async def measure_and_report(args: argparse.Namespace) -> int:
    """Measure what `args` ask for, print the table, write `args.json`; 0, or 1 if requests failed.

    Raises `BenchError` when nothing can be measured.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = this_machine()
    client = ChatClient(
        args.base_url,
        api_key=args.api_key or os.environ.get("OPENAI_API_KEY"),
        timeout_s=args.timeout,
        body={"temperature": args.temperature, **args.extra_body},
    )
    try:
        async with client:
            plan = _plan(args, await _choose_model(client, args.model))
            _say(
                f"{plan.model} at {client.base_url}, seed {plan.seed}; client: "
                f"{machine.cpu_model}, governor {machine.governor}, {machine.kernel}"
            )
            measured = await measure(client, plan, _show)
    finally:
        _show("")
    summaries = summarize(measured, plan.max_tokens)
    for line in (*table(summaries), *remarks(measured, summaries, plan.max_tokens)):
        _say(line)
    if args.json is not None:
        _write(
            args.json,
            {
                "format": JSON_FORMAT,
                "started": started,
                "client": _client(machine),
                "server": {"base_url": client.base_url, "takes_stream_options": client.asks_usage},
                "parameters": _parameters(args, plan),
                **_results(measured, summaries),
            },
        )
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


def _parameters(args: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """Everything but the key."""
    return {
        **dataclasses.asdict(plan),
        "temperature": args.temperature,
        "timeout_s": args.timeout,
        "extra_body": args.extra_body,
    }


def _client(machine: Machine) -> dict[str, Any]:
    return {
        "qwen_appliance": appliance.__version__,
        "python": platform.python_version(),
        "httpx": httpx.__version__,
        "machine": dataclasses.asdict(machine),
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")  # in place: it may be a pipe or a device
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror or error}") from error


def _show(text: str) -> None:
    """One line that the next one overwrites on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
