"""The service's configuration: YAML file < environment < arguments, into frozen dataclasses.

`settings.py` declares every setting once; validation, environment names, `--set`, the example file
and the listing of `qwen-appliance config` all follow from that declaration. A leaf: it imports the
standard library, PyYAML and `appliance.errors`, nothing else of the project.
"""

from appliance.config.arguments import add_arguments, load_from_arguments
from appliance.config.example import SettingLine, describe, example_yaml
from appliance.config.load import (
    DEFAULT_FILE,
    FILE_VARIABLE,
    LoadedConfig,
    fill_defaults,
    load_config,
)
from appliance.config.settings import (
    Config,
    EngineConfig,
    GenerationConfig,
    ModelConfig,
    ServerConfig,
)

__all__ = [
    "DEFAULT_FILE",
    "FILE_VARIABLE",
    "Config",
    "EngineConfig",
    "GenerationConfig",
    "LoadedConfig",
    "ModelConfig",
    "ServerConfig",
    "SettingLine",
    "add_arguments",
    "describe",
    "example_yaml",
    "fill_defaults",
    "load_config",
    "load_from_arguments",
]
