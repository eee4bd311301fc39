"""Finds the part of a JSON schema that a compiler complains about without saying where it is.

A part is at fault if it gives the same complaint when it is compiled alone, with the definitions of
the whole schema beside it; of those parts the innermost one. What nothing can satisfy is complained
of in other words at every level, and counts as the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MAPS = ("properties", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties")
_SHARED = ("$schema", "$defs", "definitions")

# llguidance's words for a part that is not even of the right type, and for one without any value.
_NO_SCHEMA = "schema must be an object or boolean"
_UNSATISFIABLE = "Unsatisfiable schema: "

# One takes about 0.1 ms; of a schema larger than that an outer part is named.
_MAX_TRIES = 500


def find_fault(
    schema: Mapping[str, Any], error_of: Callable[[Mapping[str, Any]], str]
) -> tuple[str, str]:
    """Where `schema` is at fault, as `.properties.age.anyOf[1]`, "" for all of it; and what is.

    `error_of` tells what is wrong with a schema, "" if nothing is.
    """
    complaint = error_of(schema)
    shared = {key: schema[key] for key in _SHARED if key in schema}
    seen: set[str] = set()
    tries = iter(range(_MAX_TRIES))

    def at_fault(path: str, part: Any) -> bool:
        if isinstance(part, bool) or path in seen:
            return False
        if not isinstance(part, dict):
            return complaint == _NO_SCHEMA
        # What refers to where the search comes from complains only of what is there.
        if _target(part) in seen or next(tries, None) is None:
            return False
        error = error_of({**shared, **part})
        return error == complaint or (
            error.startswith(_UNSATISFIABLE) and complaint.startswith(_UNSATISFIABLE)
        )

    path, part = "", schema
    while isinstance(part, dict):
        seen.add(path)
        inner = next((one for one in _parts(schema, path, part) if at_fault(*one)), None)
        if inner is None:
            break
        path, part = inner
    return path, error_of({**shared, **part}) if isinstance(part, dict) else complaint


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
        if isinstance(schema.get(key), dict):
            yield f"{path}.{key}", schema[key]
    target = _target(schema)
    if target is not None:
        part: Any = root
        for step in target.split(".")[1:]:
            part = part.get(step) if isinstance(part, dict) else None
        yield target, part


def _target(schema: Mapping[str, Any]) -> str | None:
    """The path of what `schema` refers to, as far as it is in the same document."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        return reference[1:].replace("/", ".")
    return None
