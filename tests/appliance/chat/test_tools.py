"""Calls that an answer must consist of: 50 tools, a model that says anything, valid arguments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLTokenizer

from appliance.chat.grammar import Grammar, GrammarError, compiled
from appliance.chat.grammar_tokens import grammar_tokens
from appliance.chat.options import CompletionOptions
from appliance.chat.output_format import OutputFormat, choice, json_schema
from appliance.chat.tokenizer import Tokenizer
from appliance.chat.tools import MAX_FORCED_CALLS, Tool, ToolUse, arguments_schema
from appliance.engine.sequence import FinishReason
from appliance.errors import RequestError
from tests import tiny_model
from tests.appliance.chat.random_model import completer_on_a_random_model, exact
from tests.generated_schemas import SchemaMaker
from tests.tiny_model import END_OF_TEXT, IM_END, VOCAB_SIZE

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
WEATHER = Tool("get_weather", "the weather", CITY)
TIME = Tool("get_time", None, {"type": "object", "properties": {}})
ANY = Tool("any", None, {"type": "object", "additionalProperties": True})


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> LLTokenizer:
    directory = tiny_model.make(tmp_path_factory.mktemp("tools") / "tiny")
    return grammar_tokens(Tokenizer(directory), VOCAB_SIZE, (IM_END, END_OF_TEXT))


def forced(*tools: Tool, parallel: bool = True) -> OutputFormat:
    form = ToolUse(tools, forced=tools, parallel=parallel).form(None)
    assert form is not None
    return form


def takes(tokens: LLTokenizer, form: OutputFormat, text: str) -> bool:
    """Whether `text` is a whole answer of that form."""
    matcher = compiled(tokens, form).deep_copy()
    ids = list(text.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


ROME = call("get_weather", '{"city": "Rome"}')
NOW = call("get_time", "{}")


def test_calls_as_the_model_was_trained_to_write_them(tokens: LLTokenizer) -> None:
    form = forced(WEATHER, TIME)
    for text in (ROME, NOW, f"{ROME}\n{NOW}", "\n".join([ROME] * MAX_FORCED_CALLS)):
        assert takes(tokens, form, text)
    for text in (
        "",
        "Hello",
        f"Sure: {ROME}",
        f"{ROME} and",
        f"{ROME}{NOW}",
        ROME.replace("Rome", "Paris"),
        call("get_rain", "{}"),
        call("get_weather", "{}"),
        call("get_time", '{"city": "Rome"}'),
        "\n".join([ROME] * (MAX_FORCED_CALLS + 1)),
    ):
        assert not takes(tokens, form, text)


def test_one_call_where_they_are_not_to_be_parallel(tokens: LLTokenizer) -> None:
    form = forced(WEATHER, TIME, parallel=False)
    assert takes(tokens, form, ROME) and not takes(tokens, form, f"{ROME}\n{NOW}")


def test_only_the_named_one(tokens: LLTokenizer) -> None:
    form = ToolUse((WEATHER, TIME), forced=(TIME,)).form(None)
    assert form is not None
    assert takes(tokens, form, NOW) and not takes(tokens, form, ROME)


def test_text_in_a_form_or_calls(tokens: LLTokenizer) -> None:
    """With tools that may be called, JSON that must fit is the other possibility."""
    text = json_schema(
        {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
        "response_format.json_schema.schema",
    )
    form = ToolUse((WEATHER, TIME)).form(text)
    assert form is not None
    assert takes(tokens, form, ROME) and takes(tokens, form, '{"x": 5}')
    assert not takes(tokens, form, '{"x": "y"}') and not takes(tokens, form, "Hello")
    assert not takes(tokens, form, f'{ROME}\n{{"x": 5}}')
    only_calls = ToolUse((WEATHER, TIME), forced=(WEATHER, TIME)).form(text)
    assert only_calls is not None and not takes(tokens, only_calls, '{"x": 5}')


def test_without_a_form_there_is_none_and_some_leave_no_room_for_calls() -> None:
    use = ToolUse((WEATHER,))
    assert use.form(None) is None
    with pytest.raises(RequestError, match="no room for a call") as caught:
        use.form(choice(["a"], "guided_choice"))
    assert caught.value.param == "guided_choice"


def test_names_and_references_stay_their_own(tokens: LLTokenizer) -> None:
    """Two schemas with definitions of the same name; a name with characters JSON minds."""
    one = {"$defs": {"v": {"enum": [1]}}, "properties": {"a": {"$ref": "#/$defs/v"}}}
    two = {"$defs": {"v": {"enum": [2]}}, "properties": {"a": {"$ref": "#/$defs/v"}}}
    form = forced(Tool("one.a-b", None, one), Tool("two", None, two))
    assert takes(tokens, form, call("one.a-b", '{"a": 1}'))
    assert takes(tokens, form, call("two", '{"a": 2}'))
    assert not takes(tokens, form, call("two", '{"a": 1}'))


def test_arguments_that_nobody_named_are_not_invented() -> None:
    assert arguments_schema(WEATHER)["additionalProperties"] is False
    assert arguments_schema(Tool("f", None, {}))["additionalProperties"] is False
    assert arguments_schema(ANY)["additionalProperties"] is True
    assert "additionalProperties" not in arguments_schema(Tool("f", None, {"$ref": "#/$defs/x"}))


def test_a_schema_that_cannot_be_enforced_says_which(tokens: LLTokenizer) -> None:
    bad = Tool("bad", None, {"type": "object", "properties": {"a": {"type": "bad"}}})
    with pytest.raises(GrammarError) as caught:
        compiled(tokens, ToolUse((WEATHER, bad), forced=(bad,)).form(None))  # type: ignore[arg-type]
    assert caught.value.path == "[1].function.parameters.properties.a"
    assert "bad" in caught.value.reason


def test_fifty_tools_and_every_call_s_arguments_fit(tiny_model_dir: Path) -> None:
    assert num_called_tools(tiny_model_dir, [(2 * i, 2 * i + 1) for i in range(70)]) >= 50


@pytest.mark.model
def test_with_a_real_vocabulary(model_dir: Path) -> None:
    assert num_called_tools(model_dir, [(i, i + 1) for i in range(500, 522)]) >= 12


def num_called_tools(model_dir: Path, seeds: Sequence[tuple[int, ...]]) -> int:
    """Ask for calls of generated tools, some at a time; how many of them were called.

    Whole answers are calls that fit the tool's own schema, which seldom fit the other one's.
    """

    async def run() -> list[list[tuple[str, str]] | None]:
        async with completer_on_a_random_model(model_dir) as completer:

            async def answer(use: ToolUse) -> list[tuple[str, str]] | None:
                form = use.form(None)
                assert form is not None
                grammar: Grammar = await completer.grammar(form)
                options = CompletionOptions(max_tokens=500, temperature=1.0)
                # A tiny template would show the schemas, more than the context has room for.
                (completion,) = completer.complete("hi", options, grammar)
                text = ""
                async for delta in completion.deltas():
                    text += delta.text
                    reason = delta.finish_reason
                return called(use, text) if reason is FinishReason.STOP else None

            return await asyncio.gather(*map(answer, uses))

    uses = [
        ToolUse(tools, forced=tools, parallel=bool(i % 3))
        for i, ones in enumerate(seeds)
        for tools in [tuple(Tool(f"tool_{s}", None, SchemaMaker(s).make()) for s in ones)]
    ]
    names_called, num_calls, num_strangers = set(), 0, 0
    for use, calls in zip(uses, asyncio.run(run()), strict=True):
        for name, arguments in calls or ():
            (tool,) = (tool for tool in use.tools if tool.name == name)
            schema = exact(json.dumps(tool.parameters))
            Draft202012Validator(schema).validate(exact(arguments))
            names_called.add(name)
            num_calls += 1
            others = [t.parameters for t in use.tools if t is not tool]
            num_strangers += not any(
                Draft202012Validator(exact(json.dumps(other))).is_valid(exact(arguments))
                for other in others
            )
        assert calls is None or len(calls) >= 1
        assert calls is None or use.parallel or len(calls) == 1
    assert num_strangers > 0.8 * num_calls
    return len(names_called)


def called(use: ToolUse, text: str) -> list[tuple[str, str]]:
    """Name and arguments of every call in `text`, which holds nothing else."""
    parser = use.parser(is_enforced=True)
    parsed = parser.feed(text)
    rest: Any = parser.feed_last("", cut=False)
    assert (parsed.text, rest.text) == ("", "")
    calls: list[list[str]] = []
    for delta in (*parsed.calls, *rest.calls):
        if delta.name is not None:
            calls.append([delta.name, ""])
        calls[-1][1] += delta.arguments
    return [(name, arguments) for name, arguments in calls]
