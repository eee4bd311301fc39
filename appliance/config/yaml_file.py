"""Reads a configuration file into plain mappings, refusing what PyYAML would let pass."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from appliance.errors import ConfigError


def read_yaml(path: Path, source: str) -> dict[Any, Any]:
    """The mapping in the file at `path`; an empty file is an empty mapping.

    Raises `ConfigError` (key `file`, `source` telling where the path came from) when the file
    cannot be read, is not UTF-8 or not YAML, names a key twice, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        raise ConfigError(
            "file", str(path), f"cannot be read: {error.strerror or error}", source
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("file", str(path), _one_line(error), source) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            "file",
            str(path),
            f"holds a {type(data).__name__}, expected sections such as `server:`",
            source,
        )
    return data


class _StrictLoader(yaml.SafeLoader):
    """A `SafeLoader` for which a key given twice is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value if isinstance(key_node, yaml.ScalarNode) else None)
            if key[1] is not None and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _one_line(error: Exception) -> str:
    """What is wrong and where, without the excerpt that PyYAML draws over several lines."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return where + ", ".join(filter(None, (error.context, error.problem)))
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position}: {error.reason}"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8: byte {error.start}: {error.reason}"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return " ".join(str(error).split())
