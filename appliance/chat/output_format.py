"""What form an answer must have, as the client said it; nothing is compiled here."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class FormatKind(enum.Enum):
    """How a form is described; the comment says what `OutputFormat.source` is then."""

    JSON_SCHEMA = "json_schema"  # the schema, a JSON object
    REGEX = "regex"
    CHOICE = "choice"  # a JSON list of strings
    GRAMMAR = "grammar"  # GBNF or llguidance's Lark
    TOOL_CALLS = "tool_calls"  # what `tools.ToolUse.form` makes


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """One form. `place` is where it stands in the request's body, dotted."""

    kind: FormatKind
    source: str
    place: str

    @property
    def param(self) -> str:
        """The request's parameter that it came with."""
        return self.place.partition(".")[0]

    @property
    def key(self) -> str:
        """Equal for forms that mean the same, wherever they stood."""
        return f"{self.kind.value}:{hashlib.sha256(self.source.encode()).hexdigest()}"


def json_schema(schema: Mapping[str, Any], place: str) -> OutputFormat:
    """JSON that fits `schema`. The order of its properties is the order of the answer's."""
    source = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return OutputFormat(FormatKind.JSON_SCHEMA, source, place)


def json_object(place: str) -> OutputFormat:
    """Any JSON object."""
    return json_schema({"type": "object"}, place)


def choice(choices: Sequence[str], place: str) -> OutputFormat:
    """One of `choices`, at least one of them."""
    assert choices
    return OutputFormat(FormatKind.CHOICE, json.dumps(list(choices)), place)
