"""The functions that a request offers to the model, and what it may do with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.chat.output_format import FormatKind, OutputFormat
from appliance.chat.tool_parser import ToolCallParser
from appliance.errors import RequestError

HERMES = "hermes"
"""The manifest's word for calls as Qwen2.5 writes them: JSON between `<tool_call>` tags."""

MAX_FORCED_CALLS = 16
"""Of an answer that must consist of calls; a weak model would go on calling."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One function. `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str | None
    parameters: Mapping[str, Any]

    def definition(self) -> dict[str, Any]:
        """As chat templates show it to the model."""
        described = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **described, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What one request may do with tools.

    `tools` are shown to the model. `forced` are those of which it must call one; without any it
    may answer with text. `parallel`: more than one call. `parameters_at` is where in one of the
    request's tools its schema stands.
    """

    tools: tuple[Tool, ...]
    forced: tuple[Tool, ...] = ()
    parallel: bool = True
    parameters_at: str = ".function.parameters"

    def definitions(self) -> list[dict[str, Any]]:
        """All tools as chat templates show them."""
        return [tool.definition() for tool in self.tools]

    def parser(self, *, is_enforced: bool) -> ToolCallParser:
        """Finds the calls in one answer; where its form is enforced, every call has its tags."""
        names = [] if is_enforced else [tool.name for tool in self.tools]
        return ToolCallParser(names, max_calls=None if self.parallel else 1)

    def form(self, text: OutputFormat | None) -> OutputFormat | None:
        """What the answer must be: calls if one is forced, otherwise calls or what `text` says.

        Raises `RequestError` when `text` is a form that cannot stand beside calls.
        """
        if not self.forced and text is None:
            return None
        if not self.forced and text is not None and text.kind is not FormatKind.JSON_SCHEMA:
            raise RequestError(
                f"{text.place} leaves no room for a call; say tool_choice 'none' or 'required'",
                text.param,
            )
        tools = self.forced or self.tools
        source = {
            "max_calls": MAX_FORCED_CALLS if self.parallel else 1,
            "tools": [[self.tools.index(t), t.name, arguments_schema(t)] for t in tools],
            "text": json.loads(text.source) if text and not self.forced else None,
            "parameters_at": self.parameters_at,
        }
        return OutputFormat(FormatKind.TOOL_CALLS, json.dumps(source, ensure_ascii=False), "tools")


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """What enforced arguments must fit: no others than those named, where others are not asked for.

    A model that invents arguments calls a function that does not know them.
    """
    schema: dict[str, Any] = {"type": "object", **tool.parameters}
    combined = any(key in schema for key in ("anyOf", "allOf", "oneOf", "$ref"))
    if "additionalProperties" not in schema and not combined:
        schema["additionalProperties"] = "patternProperties" in schema
    return schema


def arguments_schemas(form: OutputFormat) -> dict[str, dict[str, Any]]:
    """The schemas in `form`, a `TOOL_CALLS`, by the place in the request's `tools`."""
    source = json.loads(form.source)
    at = source["parameters_at"]
    return {f"[{number}]{at}": schema for number, _, schema in source["tools"]}


def calls_grammar(form: OutputFormat, json_options: Mapping[str, Any]) -> str:
    """`form`, a `TOOL_CALLS`, in llguidance's language: as Qwen2.5 writes calls, tags and all."""
    source = json.loads(form.source)
    tools: Sequence[tuple[int, str, dict[str, Any]]] = source["tools"]
    names = [f"call_{number}" for number, _, _ in tools]
    more = source["max_calls"] - 1
    rules = [
        "start: calls" + (" | @text" if source["text"] else ""),
        f'calls: call ("\\n" call){{0,{more}}}' if more else "calls: call",
        f"call: {' | '.join(names)}",
    ]
    for rule, (number, name, _) in zip(names, tools, strict=True):
        opening = json.dumps(f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": ')
        closing = json.dumps("}\n</tool_call>")
        rules.append(f"{rule}: {opening} @arguments_{number} {closing}")
    grammars: list[dict[str, Any]] = [{"lark_grammar": "\n".join(rules)}]
    for number, _, schema in tools:
        schema = {**schema, "x-guidance": json_options}
        grammars.append({"name": f"arguments_{number}", "json_schema": schema})
    if source["text"]:
        schema = {**source["text"], "x-guidance": json_options}
        grammars.append({"name": "text", "json_schema": schema})
    return json.dumps({"grammars": grammars})
