"""A form that an answer must have, compiled: which tokens may follow which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from

from appliance.chat.output_format import FormatKind, OutputFormat
from appliance.chat.schema_fault import find_fault
from appliance.chat.tools import arguments_schemas, calls_grammar
from appliance.errors import RequestError

# JSON as models write it: a blank, or a line break and an indentation, where whitespace may stand.
# Any amount of it would let a weak model write blanks until its tokens are used up.
_JSON_OPTIONS: Any = {
    "whitespace_pattern": r"( |\n[ \t]{0,40})",
    "lenient": False,
    "coerce_one_of": False,
}

# Bounds what a form can cost: up to 2 kB per state, some 20 ms of a step.
_LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


class GrammarError(Exception):
    """A form that cannot be compiled; `path` is where in its source, as `.properties.age`."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason, self.path = " ".join(reason.split()), path
        super().__init__(self.reason)


class Grammar:
    """A compiled form, for any number of answers; `param` brought it."""

    def __init__(self, matcher: LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param

    def start(self) -> GrammarConstraint:
        """The constraint of one answer that has not begun."""
        return GrammarConstraint(self._matcher.deep_copy(), self._param)


class GrammarConstraint:
    """How far one answer has come: the engine's `TokenConstraint`."""

    def __init__(self, matcher: LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param

    def allowed(self) -> bytes:
        bits = self._matcher.compute_bitmask()
        self._check()
        return bits

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(
                f"{self._param}: cannot be followed from here on, most likely since it is too "
                f"complex ({_one_line(self._matcher.get_error())}); simplify it",
                self._param,
            )


def compiled(tokens: LLTokenizer, form: OutputFormat) -> LLMatcher:
    """A matcher for `form`, at its beginning and to be copied only.

    Takes from a millisecond to seconds, and lets other threads run. Raises `GrammarError`.
    """
    matcher = _matcher(tokens, _source(form))
    if matcher.is_error():
        raise _error(tokens, form) or GrammarError(matcher.get_error())
    # The first mask is the dearest; what it found out is part of every copy.
    matcher.compute_bitmask()
    if matcher.is_stopped() and not matcher.is_accepting():
        raise GrammarError("nothing that could be written fits it")
    return matcher


def _matcher(tokens: LLTokenizer, source: str) -> LLMatcher:
    return LLMatcher(tokens, source, log_level=0, limits=_LIMITS)


def _source(form: OutputFormat) -> str:
    """`form` in llguidance's own language, which checks it later."""
    try:
        if form.kind is FormatKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(form.source, overrides=_JSON_OPTIONS)
        if form.kind is FormatKind.REGEX:
            return LLMatcher.grammar_from_regex(form.source)
        if form.kind is FormatKind.CHOICE:
            return grammar_from("choice", form.source)
        if form.kind is FormatKind.TOOL_CALLS:
            return calls_grammar(form, _JSON_OPTIONS)
        return grammar_from("grammar", form.source)
    except ValueError as error:
        raise GrammarError(str(error)) from error


def _error(tokens: LLTokenizer, form: OutputFormat) -> GrammarError | None:
    """What is wrong with which of the form's schemas, if it is one of those."""
    if form.kind is FormatKind.JSON_SCHEMA:
        schemas = {"": json.loads(form.source)}
    elif form.kind is FormatKind.TOOL_CALLS:
        schemas = arguments_schemas(form)
    else:
        schemas = {}
    for place, schema in schemas.items():
        path, reason = find_fault(schema, lambda part: _schema_error(tokens, part))
        if reason:
            return GrammarError(reason, place + path)
    return None


def _schema_error(tokens: LLTokenizer, schema: Mapping[str, Any]) -> str:
    try:
        source = LLMatcher.grammar_from_json_schema(dict(schema), overrides=_JSON_OPTIONS)
    except ValueError as error:
        return str(error)
    return _matcher(tokens, source).get_error()


def _one_line(text: str) -> str:
    return " ".join(text.split())
