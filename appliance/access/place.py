"""Where the file of API keys is, when no setting says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from appliance.config import LoadedConfig, fill_defaults

SETTING = "server.api_keys_file"
_NAME = "api-keys"


def with_key_file(loaded: LoadedConfig, env: Mapping[str, str]) -> LoadedConfig:
    """`loaded`, with the file of API keys filled in if nobody set it and there is one.

    systemd's credential `api-keys` comes first (`LoadCredential=` in systemd.exec(5)).
    """
    places = [(own_file(env), "found")]
    if directory := env.get("CREDENTIALS_DIRECTORY"):
        places.insert(0, (Path(directory) / _NAME, "credential"))
    for path, source in places:
        if os.path.exists(path):  # not Path.exists(), which raises for somebody else's home
            return fill_defaults(loaded, {SETTING: str(path)}, source)
    return loaded


def own_file(env: Mapping[str, str]) -> Path:
    """The user's own file, there or not: `$XDG_CONFIG_HOME/qwen-appliance/api-keys`."""
    base = env.get("XDG_CONFIG_HOME", "")
    # The specification has relative paths ignored.
    directory = Path(base) if base.startswith("/") else Path(env.get("HOME") or "/") / ".config"
    return directory / "qwen-appliance" / _NAME
