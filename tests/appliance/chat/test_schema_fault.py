"""Where in a schema a fault is, with a compiler that only says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from appliance.chat.schema_fault import find_fault

BAD = {"type": "bad"}


def complaint(schema: Mapping[str, Any]) -> str:
    """A compiler that follows what is used and tells the first thing it does not like."""

    def look(part: Any, seen: frozenset[str]) -> str:
        if isinstance(part, bool):
            return ""
        if not isinstance(part, dict):
            return "schema must be an object or boolean"
        if part.get("type") in ("bad", "worse"):
            return f"type {part['type']}"
        reference = part.get("$ref")
        if reference is not None and reference not in seen:
            target: Any = schema
            for step in reference[2:].split("/"):
                if step not in target:
                    return f"no {reference}"
                target = target[step]
            return look(target, seen | {reference})
        inner = [
            *part.get("properties", {}).values(),
            *part.get("anyOf", ()),
            *(part["items"] if isinstance(part.get("items"), list) else ()),
            *([part["items"]] if isinstance(part.get("items"), dict) else ()),
            *([part["additionalProperties"]] if "additionalProperties" in part else ()),
        ]
        return next(filter(None, (look(one, seen) for one in inner)), "")

    return look(schema, frozenset())


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (BAD, ""),
        ({"properties": {"a": {}, "b": BAD}}, ".properties.b"),
        ({"properties": {"a": {"items": {"anyOf": [{}, BAD]}}}}, ".properties.a.items.anyOf[1]"),
        ({"items": [{}, BAD]}, ".items[1]"),
        ({"additionalProperties": BAD}, ".additionalProperties"),
        ({"additionalProperties": False, "properties": {"a": BAD}}, ".properties.a"),
        ({"properties": {"a": 5}}, ".properties.a"),
        ({"properties": {"a": {"type": "worse"}, "b": BAD}}, ".properties.a"),
        ({"$defs": {"n": BAD}, "properties": {"a": {"$ref": "#/$defs/n"}}}, ".$defs.n"),
        (
            {"$defs": {"n": {"properties": {"x": BAD}}}, "anyOf": [{"$ref": "#/$defs/n"}]},
            ".$defs.n.properties.x",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, ".properties.a"),
    ],
    ids=str,
)
def test_the_innermost_part_is_named(schema: dict[str, Any], path: str) -> None:
    assert complaint(schema)
    assert find_fault(schema, complaint)[0] == path


def test_a_definition_that_refers_to_itself() -> None:
    node = {"properties": {"next": {"$ref": "#/$defs/n"}, "bad": BAD}}
    schema = {"$defs": {"n": node}, "$ref": "#/$defs/n"}
    assert find_fault(schema, complaint)[0] == ".$defs.n.properties.bad"


def test_definitions_that_refer_to_each_other() -> None:
    schema = {
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"items": {"$ref": "#/$defs/a"}}},
        "anyOf": [{"$ref": "#/$defs/b"}, BAD],
    }
    assert find_fault(schema, complaint)[0] == ".anyOf[1]"


def test_of_a_very_large_schema_an_outer_part_is_named() -> None:
    properties = {f"p{i}": {"type": "string"} for i in range(2000)}
    tries = []

    def counting(schema: Mapping[str, Any]) -> str:
        tries.append(schema)
        return complaint(schema)

    schema = {"properties": {**properties, "last": BAD}}
    assert find_fault(schema, counting) == ("", "type bad")
    assert len(tries) < 600
