"""Makes JSON schemas as people write them: nested objects, arrays, enums, references, bounds."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

_NAMES = ("name", "id", "größe", "tags", "a b", "unit_price", "notes", "x", "children", "on/off")
_PATTERNS = (
    "^[A-Z]{2}-[0-9]{4}$",
    "^(red|green|blue)$",
    "^[a-z]+@[a-z]+\\.(com|org)$",
    "[0-9]{3}",
    "^\\d{4}-\\d{2}-\\d{2}$",
    "^.{2,5}$",
)
_WORDS = ("red", "green", "two words", 'a "quote"', "back\\slash", "ünï", "😀", "", "null", "1")
_MAX_DEPTH = 3


class SchemaMaker:
    """One schema for each seed; `make()` is to be called once."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: Schema = {}

    def make(self) -> Schema:
        """A schema of an object, with what it refers to in `$defs`."""
        schema = self._object(0)
        if self._random.random() < 0.3:
            schema["description"] = "what nobody enforces"
        return {**schema, **({"$defs": self._definitions} if self._definitions else {})}

    def _any(self, depth: int) -> Schema:
        kinds = [self._string, self._number, self._integer, self._enum, self._simple]
        if depth < _MAX_DEPTH:
            kinds += [self._object, self._array, self._any_of, self._reference]
        return self._random.choice(kinds)(depth)

    def _object(self, depth: int) -> Schema:
        names = self._random.sample(_NAMES, self._random.randint(1, 4 - depth // 2))
        required = [name for name in names if self._random.random() < 0.7]
        schema: Schema = {
            "type": "object",
            "properties": {name: self._any(depth + 1) for name in names},
            "additionalProperties": False,
        }
        if required:
            schema["required"] = required
        return schema

    def _array(self, depth: int) -> Schema:
        if self._random.random() < 0.2:
            items = [self._any(depth + 1) for _ in range(2)]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
        low = self._random.randint(0, 2)
        return {
            "type": "array",
            "items": self._any(depth + 1),
            "minItems": low,
            "maxItems": low + self._random.randint(0, 2),
        }

    def _string(self, depth: int) -> Schema:
        return self._random.choice(
            [
                {"type": "string", "maxLength": self._random.randint(1, 12)},
                {"type": "string", "minLength": 2, "maxLength": 6},
                {"type": "string", "pattern": self._random.choice(_PATTERNS)},
                {"type": "string", "format": self._random.choice(["date", "ipv4", "uuid"])},
            ]
        )

    def _number(self, depth: int) -> Schema:
        low = round(self._random.uniform(-100, 100), 2)
        return self._random.choice(
            [
                {"type": "number", "minimum": low, "maximum": low + 10},
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": ["number", "null"], "minimum": low},
            ]
        )

    def _integer(self, depth: int) -> Schema:
        low = self._random.randint(-1000, 1000)
        return self._random.choice(
            [
                {"type": "integer", "minimum": low, "maximum": low + self._random.randint(0, 500)},
                {"type": "integer", "exclusiveMinimum": low, "maximum": low + 7},
                {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5},
            ]
        )

    def _enum(self, depth: int) -> Schema:
        if self._random.random() < 0.2:
            return {
                "const": self._random.choice([None, True, 0, -1.5, "fixed", [1, "a"], {"k": 1}])
            }
        values: list[Any] = self._random.sample(_WORDS, self._random.randint(1, 4))
        if self._random.random() < 0.3:
            values += [None, 7]
        return {"enum": values}

    def _simple(self, depth: int) -> Schema:
        return {"type": self._random.choice(["boolean", "null", ["boolean", "null"]])}

    def _any_of(self, depth: int) -> Schema:
        count = self._random.randint(2, 3)
        return {"anyOf": [self._any(depth + 1) for _ in range(count)]}

    def _reference(self, depth: int) -> Schema:
        """To a definition of its own, which may refer to itself."""
        name = f"part{len(self._definitions)}"
        self._definitions[name] = {}
        part = self._object(depth + 1)
        if self._random.random() < 0.4:
            part["properties"]["next"] = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{name}"}]}
        self._definitions[name] = part
        return {"$ref": f"#/$defs/{name}"}
