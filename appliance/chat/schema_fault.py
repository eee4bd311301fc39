"""Finds the part of a JSON schema that a compiler complains about without saying where it is.

A part is at fault if it gives the same complaint when it is compiled alone, with the definitions of
the whole schema beside it; of those parts the innermost one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MAPS = ("properties", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties")
_SHARED = ("$schema", "$defs", "definitions")

# llguidance's words for a part that is not even of the right type.
_NO_SCHEMA = "schema must be an object or boolean"

# One takes about 0.1 ms; of a schema larger than that an outer part is named.
_MAX_TRIES = 500


def place_of_fault(schema: Mapping[str, Any], error_of: Callable[[Mapping[str, Any]], str]) -> str:
    """The path of the part of `schema` at fault, as `.properties.age.anyOf[1]`; "" for all of it.

    `error_of` tells what is wrong with a schema, "" if nothing is.
    """
    complaint = error_of(schema)
    shared = {key: schema[key] for key in _SHARED if key in schema}
    seen: set[str] = set()
    tries = iter(range(_MAX_TRIES))

    def at_fault(part: Any) -> bool:
        if not isinstance(part, dict | bool):
            return complaint == _NO_SCHEMA
        if isinstance(part, bool) or next(tries, None) is None:
            return False
        return error_of({**shared, **part}) == complaint

    path, part = "", schema
    while isinstance(part, dict):
        inner = next(((p, s) for p, s in _parts(schema, path, part) if at_fault(s)), None)
        if inner is None or inner[0] in seen:
            return path
        path, part = inner
        seen.add(path)
    return path


def _parts(
    root: Mapping[str, Any], path: str, schema: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The parts directly inside `schema`, and the one it refers to, with their paths."""
    for key in _MAPS:
        if isinstance(inner := schema.get(key), dict):
            yield from ((f"{path}.{key}.{name}", part) for name, part in inner.items())
    for key in _LISTS:
        if isinstance(inner := schema.get(key), list):
            yield from ((f"{path}.{key}[{index}]", part) for index, part in enumerate(inner))
    for key in _SINGLE:
        if key in schema:
            yield f"{path}.{key}", schema[key]
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/"):
        steps = reference[2:].split("/")
        target: Any = root
        for step in steps:
            target = target.get(step) if isinstance(target, dict) else None
        yield "." + ".".join(steps), target
