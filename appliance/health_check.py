"""`qwen-appliance health`: whether this machine's service takes requests, for those who watch it.

Standard library only: a container's health check runs it every half a minute.
"""

from __future__ import annotations

import argparse
import os
import sys

from appliance.config import add_arguments as add_config_arguments
from appliance.config import load_from_arguments
from appliance.doctor.health import Health, ask
from appliance.errors import BindError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration's: the address is the one that the service was told to listen on."""
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print `ready` and return 0, or say on stderr why not and return 4. Raises `ConfigError`."""
    server = load_from_arguments(args, os.environ).config.server
    health = ask(server)
    if health.status == "ready":
        sys.stdout.write("ready\n")
        return 0
    sys.stderr.write(f"qwen-appliance: {server.host}:{server.port}: {_problem(health)}\n")
    return BindError.exit_code


def _problem(health: Health) -> str:
    if health.kind == "ours":
        return f"the service is {health.status}"
    reasons = {
        "nobody": "nobody listens there",
        "silent": "who listens there does not answer",
        "other": "another program listens there",
    }
    return f"{reasons.get(health.kind, health.kind)}: {health.detail}"
