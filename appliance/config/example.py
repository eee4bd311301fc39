"""What a person reads: the commented example file, and the listing of what is in force."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import NamedTuple

import yaml

from appliance.config.fields import Setting
from appliance.config.load import DEFAULT_FILE, FILE_VARIABLE, SETTINGS, LoadedConfig

_HEADER = f"""\
# Settings of qwen-appliance, each with its default. Generated: `qwen-appliance config --example`.
#
# Read from the file that --config or ${FILE_VARIABLE} names, otherwise from
# {DEFAULT_FILE}. An environment variable of the name given below overrides a
# line of this file, an argument (--set SECTION.NAME=VALUE) overrides both. Relative paths start at
# this file's directory. `qwen-appliance config` shows what is in force, and from where.
#
# To change a setting, remove the # before its name.
"""
_WIDTH = 100


class SettingLine(NamedTuple):
    """One line of `qwen-appliance config`; `value` as YAML writes it."""

    key: str
    value: str
    source: str


def describe(loaded: LoadedConfig) -> list[SettingLine]:
    """Every setting in force, in the order of declaration."""
    return [
        SettingLine(
            setting.key,
            _as_yaml(getattr(getattr(loaded.config, setting.section), setting.name)),
            loaded.sources[setting.key],
        )
        for setting in SETTINGS
    ]


def example_yaml() -> str:
    """The text of `provisioning/config.example.yaml`; it loads as it is and changes nothing."""
    parts = [_HEADER]
    section = ""
    for setting in SETTINGS:
        if setting.section != section:
            section = setting.section
            parts.append(f"\n{section}:\n")
        parts.append(_example_of(setting))
    return "".join(parts)


def _example_of(setting: Setting) -> str:
    names = [setting.variable] + ([setting.rule.option] if setting.rule.option else [])
    text = [
        f"{setting.rule.help[0].upper()}{setting.rule.help[1:]}.",
        f"{setting.expectation[0].upper()}{setting.expectation[1:]}. [{', '.join(names)}]",
    ]
    lines = [
        line
        for paragraph in text
        for line in textwrap.wrap(
            paragraph,
            _WIDTH,
            initial_indent="  # ",
            subsequent_indent="  # ",
            break_on_hyphens=False,
        )
    ]
    return "\n".join([*lines, f"  #{setting.name}: {_as_yaml(setting.default)}"]) + "\n"


def _as_yaml(value: object) -> str:
    """A value on one line. JSON's strings and lists are YAML's; plain words need no quotes."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str | Path):
        return str(value) if _is_plain(str(value)) else json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)


def _is_plain(text: str) -> bool:
    """Whether YAML reads `text` back as that same text without quotes."""
    try:
        return text.isprintable() and bool(yaml.safe_load(f"key: {text}") == {"key": text})
    except (yaml.YAMLError, ValueError):
        return False
