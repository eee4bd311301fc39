"""`qwen-appliance VERB`: arguments to a configuration, then to the verb."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from appliance import __version__, health_check
from appliance.access import command as key_command
from appliance.access.place import with_key_file
from appliance.bench import command as bench_command
from appliance.config import (
    LoadedConfig,
    add_arguments,
    describe,
    example_yaml,
    load_from_arguments,
)
from appliance.doctor import command as doctor_command
from appliance.errors import ApplianceError, ModelDirError
from appliance.stage import command as stage_command
from appliance.tune import command as tune_command

_LOG_FORMAT = "%(levelname)s %(message)s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code that the README's table explains."""
    args = _parser().parse_args(arguments)
    if os.getpid() == 1:
        # The first process of a container: the kernel withholds from it every signal that it has no
        # handler for. Without one, `docker stop` would wait in vain while a verb works or begins.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough (`| head`); what is left goes nowhere, and says nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ApplianceError as error:
        print(f"qwen-appliance: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qwen-appliance", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"qwen-appliance {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    serve = verbs.add_parser("serve", help="serve a model directory until a signal comes")
    add_arguments(serve)
    serve.set_defaults(run=_serve)

    config = verbs.add_parser("config", help="print the settings in force, and where each is from")
    add_arguments(config)
    config.add_argument(
        "--example", action="store_true", help="print the commented example file instead"
    )
    config.set_defaults(run=_config)

    health = verbs.add_parser("health", help="whether this machine's service takes requests")
    health_check.add_arguments(health)
    health.set_defaults(run=health_check.run)

    bench = verbs.add_parser("bench", help="measure any OpenAI-compatible server")
    bench_command.add_arguments(bench)
    bench.set_defaults(run=bench_command.run)

    doctor = verbs.add_parser("doctor", help="what this box has, what is wrong, what to do")
    doctor_command.add_arguments(doctor)

    key = verbs.add_parser("key", help="API keys: who may use the service from elsewhere")
    key_command.add_arguments(key)

    tune = verbs.add_parser("tune", help="measure what is fastest on this machine, and keep it")
    tune_command.add_arguments(tune)

    stage = verbs.add_parser("stage", help="put a checked copy of the model into a RAM disk")
    stage_command.add_arguments(stage)
    stage.set_defaults(run=stage_command.run)
    return parser


def _serve(args: argparse.Namespace) -> int:
    loaded = load_from_arguments(args, os.environ)
    _log_to_stderr(loaded)
    loaded = with_key_file(_with_calibration(loaded), os.environ)
    # Imported here, so that a wrong setting is told before half a second of imports.
    from appliance.serve import serve

    return serve(loaded.config)


def _config(args: argparse.Namespace) -> int:
    if args.example:
        print(example_yaml(), end="")
        return 0
    loaded = with_key_file(load_from_arguments(args, os.environ), os.environ)
    logging.basicConfig(level=logging.WARNING, format=_LOG_FORMAT, stream=sys.stderr)
    try:
        loaded = _with_calibration(loaded)
    except ModelDirError as error:
        print(f"qwen-appliance: without a calibration: {error}", file=sys.stderr)
    lines = describe(loaded)
    key_width = max(len(line.key) for line in lines)
    value_width = max(len(line.value) for line in lines)
    for line in lines:
        print(f"{line.key:<{key_width}}  {line.value:<{value_width}}  {line.source}")
    return 0


def _with_calibration(loaded: LoadedConfig) -> LoadedConfig:
    from appliance.tune.apply import with_calibration

    return with_calibration(loaded)


def _log_to_stderr(loaded: LoadedConfig) -> None:
    """One line per event on stderr; systemd's journal adds the time."""
    level = loaded.config.server.log_level.upper()
    logging.basicConfig(level=level, format=_LOG_FORMAT, stream=sys.stderr)
    # Uvicorn and httpx tell every small step at "info".
    for name in ("uvicorn", "uvicorn.error", "httpx"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
