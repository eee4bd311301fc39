"""The fields of a request that ask for an answer of a certain form, and what they come down to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from appliance.chat.output_format import (
    FormatKind,
    OutputFormat,
    choice,
    json_object,
    json_schema,
)
from appliance.errors import RequestError

Schema = dict[str, Any]
Choices = Annotated[list[str], msgspec.Meta(min_length=1)]


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    """Any text."""


class JSONObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(msgspec.Struct):
    """A JSON schema, enforced whether `strict` or not; `name` and `description` are not used."""

    name: str
    description: str | None = None
    schema: Schema | None = None
    strict: bool | None = None


class JSONSchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    json_schema: NamedSchema


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's extension: one of these."""

    json: str | Schema | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None


class FormatFields(msgspec.Struct, kw_only=True):
    """What both endpoints take; one of them at most may ask for anything."""

    response_format: TextFormat | JSONObjectFormat | JSONSchemaFormat | None = None
    guided_json: str | Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    def output_format(self) -> OutputFormat | None:
        """The form asked for, or None. Raises `RequestError` when several are, or JSON is none."""
        nested = self.structured_outputs or StructuredOutputs()
        forms = [
            *self._stated_form(),
            *_form(_schema, self.guided_json, "guided_json"),
            *_form(_regex, self.guided_regex, "guided_regex"),
            *_form(choice, self.guided_choice, "guided_choice"),
            *_form(_grammar, self.guided_grammar, "guided_grammar"),
            *_form(_schema, nested.json, "structured_outputs.json"),
            *_form(_object, nested.json_object or None, "structured_outputs.json_object"),
            *_form(_regex, nested.regex, "structured_outputs.regex"),
            *_form(choice, nested.choice, "structured_outputs.choice"),
            *_form(_grammar, nested.grammar, "structured_outputs.grammar"),
        ]
        if len(forms) > 1:
            raise RequestError(
                f"{forms[0].place} and {forms[1].place} both say what form the answer must have; "
                "leave one out",
                forms[1].param,
            )
        return forms[0] if forms else None

    def _stated_form(self) -> list[OutputFormat]:
        """The form, at most one, in the place where OpenAI has it."""
        return _response_format(self.response_format)


def _form(make: Callable[[Any, str], OutputFormat], value: Any, place: str) -> list[OutputFormat]:
    return [] if value is None else [make(value, place)]


def _response_format(
    form: TextFormat | JSONObjectFormat | JSONSchemaFormat | None,
) -> list[OutputFormat]:
    if isinstance(form, JSONSchemaFormat) and form.json_schema.schema is not None:
        return [json_schema(form.json_schema.schema, "response_format.json_schema.schema")]
    if isinstance(form, JSONObjectFormat | JSONSchemaFormat):
        return [json_object("response_format")]
    return []


def _schema(schema: str | Schema, place: str) -> OutputFormat:
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema, type=Schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(f"{place}: {error}", place.partition(".")[0]) from None
    return json_schema(schema, place)


def _regex(regex: str, place: str) -> OutputFormat:
    return OutputFormat(FormatKind.REGEX, regex, place)


def _grammar(grammar: str, place: str) -> OutputFormat:
    return OutputFormat(FormatKind.GRAMMAR, grammar, place)


def _object(_: bool, place: str) -> OutputFormat:
    return json_object(place)
