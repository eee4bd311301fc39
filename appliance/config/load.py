"""Puts the configuration together and remembers where each value came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.config.fields import ENVIRONMENT_PREFIX, Setting, settings_of
from appliance.config.settings import (
    Config,
    EngineConfig,
    GenerationConfig,
    ModelConfig,
    ServerConfig,
)
from appliance.config.yaml_file import read_yaml
from appliance.errors import ConfigError

DEFAULT = "default"
"""The source of a value that nobody set."""
DEFAULT_FILE = Path("/etc/qwen-appliance/config.yaml")
FILE_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG"
# Not settings of the service: what its own tests are told.
_TEST_PREFIX = f"{ENVIRONMENT_PREFIX}TEST_"

SETTINGS = settings_of(Config)
_BY_KEY = {setting.key: setting for setting in SETTINGS}
_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}
_BY_OPTION = {setting.rule.option: setting for setting in SETTINGS if setting.rule.option}
_SECTIONS = tuple(dict.fromkeys(setting.section for setting in SETTINGS))


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and its origins.

    `sources` has every dotted key: `default`, `file PATH`, `environment NAME` or `argument --x`;
    what `fill_defaults` filled in has the source it was given. `file` is the file that was read,
    if one was.
    """

    config: Config
    sources: Mapping[str, str]
    file: Path | None

    def is_set(self, key: str) -> bool:
        """Whether somebody chose the value of `key`, be it the default's."""
        return self.sources[key] != DEFAULT


def load_config(
    file: Path | None,
    env: Mapping[str, str],
    overrides: Mapping[str, str],
    *,
    default_file: Path = DEFAULT_FILE,
) -> LoadedConfig:
    """Read `file`, then `env`, then `overrides`; later ones win, setting by setting.

    Without `file` the one that `QWEN_APPLIANCE_CONFIG` names is read, and without that
    `default_file` if it exists. `overrides` maps dotted keys (`server.port`, from `--set`) or
    options (`--port`) to text. Relative paths in a file start at the file's directory, others at
    the working directory. Raises `ConfigError` for the first thing that cannot be used.
    """
    values: dict[str, object] = {setting.key: setting.default for setting in SETTINGS}
    sources = dict.fromkeys(values, DEFAULT)
    chosen, chosen_by = _choose_file(file, env, default_file)
    if chosen is not None:
        _apply_file(chosen, chosen_by, values, sources)
    _apply_environment(env, values, sources)
    _apply_arguments(overrides, values, sources)
    _check_together(values, sources)
    return LoadedConfig(_build(values), sources, chosen)


def fill_defaults(
    loaded: LoadedConfig, measured: Mapping[str, object], source: str
) -> LoadedConfig:
    """`loaded` with the values of `measured` (dotted keys) for settings that nobody set.

    So they win over the built-in defaults and over nothing else. Raises `ConfigError` for an
    unknown key and for any value that the setting does not allow, used or not.
    """
    values: dict[str, object] = {
        setting.key: getattr(getattr(loaded.config, setting.section), setting.name)
        for setting in SETTINGS
    }
    sources = dict(loaded.sources)
    for key, value in measured.items():
        setting = _BY_KEY.get(key)
        if setting is None:
            raise ConfigError(key, value, _unknown(key, _BY_KEY), source)
        try:
            checked = setting.from_yaml(value, Path())
        except ValueError as error:
            raise ConfigError(key, value, str(error), source) from None
        if not loaded.is_set(key):
            values[key], sources[key] = checked, source
    return LoadedConfig(_build(values), sources, loaded.file)


def _choose_file(
    file: Path | None, env: Mapping[str, str], default_file: Path
) -> tuple[Path | None, str]:
    """The file to read, if any, and what asked for it."""
    if file is not None:
        return file, "argument --config"
    if named := env.get(FILE_VARIABLE):
        return Path(named), f"environment {FILE_VARIABLE}"
    try:
        default_file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError:
        pass  # it is there but out of our reach; reading it will say so
    return default_file, DEFAULT


def _apply_file(
    path: Path, chosen_by: str, values: dict[str, object], sources: dict[str, str]
) -> None:
    source = f"file {path}"
    for section, content in read_yaml(path, chosen_by).items():
        if section not in _SECTIONS:
            raise ConfigError(str(section), content, _unknown(str(section), _SECTIONS), source)
        if content is None:
            continue
        if not isinstance(content, dict):
            raise ConfigError(section, content, "expected settings below it, indented", source)
        for name, value in content.items():
            key = f"{section}.{name}"
            setting = _BY_KEY.get(key)
            if setting is None:
                raise ConfigError(key, value, _unknown(key, _BY_KEY), source)
            try:
                values[key] = setting.from_yaml(value, path.absolute().parent)
            except ValueError as error:
                raise ConfigError(key, value, str(error), source) from None
            sources[key] = source


def _apply_environment(
    env: Mapping[str, str], values: dict[str, object], sources: dict[str, str]
) -> None:
    for variable in sorted(env):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if variable == FILE_VARIABLE or variable.startswith(_TEST_PREFIX):
            continue
        setting = _BY_VARIABLE.get(variable)
        if setting is None:
            known = (FILE_VARIABLE, *_BY_VARIABLE)
            raise ConfigError(variable, env[variable], _unknown(variable, known), "environment")
        _apply_text(setting, env[variable], f"environment {variable}", values, sources)


def _apply_arguments(
    overrides: Mapping[str, str], values: dict[str, object], sources: dict[str, str]
) -> None:
    given: dict[str, str] = {}
    for name, text in overrides.items():
        setting = _BY_OPTION.get(name) or _BY_KEY.get(name)
        source = f"argument {name}" if name in _BY_OPTION else f"argument --set {name}"
        if setting is None:
            raise ConfigError(name, text, _unknown(name, _BY_KEY), "argument --set")
        if setting.key in given:
            raise ConfigError(
                setting.key, text, f"given twice, also by {given[setting.key]}", source
            )
        given[setting.key] = source
        _apply_text(setting, text, source, values, sources)


def _apply_text(
    setting: Setting, text: str, source: str, values: dict[str, object], sources: dict[str, str]
) -> None:
    try:
        values[setting.key] = setting.from_text(text)
    except ValueError as error:
        raise ConfigError(setting.key, text, str(error), source) from None
    sources[setting.key] = source


def _check_together(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """What no setting can check alone. The one that somebody set is the one blamed."""
    default, ceiling = "generation.default_max_tokens", "generation.max_tokens_ceiling"
    if values[default] <= values[ceiling]:
        return
    if sources[ceiling] == DEFAULT:
        limit = f"expected at most {ceiling}, which is {values[ceiling]}"
        raise ConfigError(default, values[default], limit, sources[default])
    limit = f"expected at least {default}, which is {values[default]}"
    raise ConfigError(ceiling, values[ceiling], limit, sources[ceiling])


def _build(values: Mapping[str, Any]) -> Config:
    def section(name: str) -> dict[str, Any]:
        return {s.name: values[s.key] for s in SETTINGS if s.section == name}

    return Config(
        ServerConfig(**section("server")),
        ModelConfig(**section("model")),
        EngineConfig(**section("engine")),
        GenerationConfig(**section("generation")),
    )


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown; did you mean {near[0]}?" if near else "unknown; see `qwen-appliance config`"
