"""The configuration's command line options, and from parsed ones to a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from appliance.config.load import DEFAULT_FILE, FILE_VARIABLE, SETTINGS, LoadedConfig, load_config
from appliance.errors import ConfigError

_DESTINATION = "setting:"  # keeps our names apart from those of other arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--set` and the options that the settings declare."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"YAML file (otherwise ${FILE_VARIABLE}, or {DEFAULT_FILE} if it exists)",
    )
    for setting in SETTINGS:
        if setting.rule.option:
            parser.add_argument(
                setting.rule.option,
                dest=_DESTINATION + setting.rule.option,
                metavar=setting.name.upper(),
                help=f"{setting.rule.help} ({setting.key})",
            )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, such as engine.max_waiting=8; may be repeated",
    )


def load_from_arguments(args: argparse.Namespace, env: Mapping[str, str]) -> LoadedConfig:
    """The configuration for arguments parsed by a parser that `add_arguments` was called on.

    Raises `ConfigError`.
    """
    overrides = {
        name.removeprefix(_DESTINATION): text
        for name, text in vars(args).items()
        if name.startswith(_DESTINATION) and text is not None
    }
    for assignment in args.set:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError("--set", assignment, "expected KEY=VALUE, such as server.port=8080")
        if key in overrides:
            raise ConfigError(key, text, "given twice", "argument --set")
        overrides[key] = text
    return load_config(args.config, env, overrides)
