"""What a compiled form lets through, on a vocabulary of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLTokenizer

from appliance.chat import output_format
from appliance.chat.grammar import Grammar, GrammarConstraint, GrammarError, compiled
from appliance.chat.grammar_tokens import grammar_tokens
from appliance.chat.output_format import FormatKind, OutputFormat
from appliance.chat.tokenizer import Tokenizer
from appliance.errors import RequestError
from tests import tiny_model
from tests.tiny_model import END_OF_TEXT, IM_END, VOCAB_SIZE

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
COMPACT = '{"name":"Ann","age":5}'


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> LLTokenizer:
    directory = tiny_model.make(tmp_path_factory.mktemp("grammar") / "tiny")
    return grammar_tokens(Tokenizer(directory), VOCAB_SIZE, (IM_END, END_OF_TEXT))


Compile = Callable[[OutputFormat], Grammar]


@pytest.fixture
def compile(tokens: LLTokenizer) -> Compile:
    return lambda form: Grammar(compiled(tokens, form), form.param)


def schema(value: dict[str, Any]) -> OutputFormat:
    return output_format.json_schema(value, "response_format.json_schema.schema")


def regex(value: str) -> OutputFormat:
    return OutputFormat(FormatKind.REGEX, value, "guided_regex")


def grammar(value: str) -> OutputFormat:
    return OutputFormat(FormatKind.GRAMMAR, value, "guided_grammar")


def may_follow(constraint: GrammarConstraint) -> set[int]:
    bits = np.frombuffer(constraint.allowed(), dtype=np.uint8)
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())


def takes(grammar: Grammar, text: str) -> bool:
    """Whether `text` is an answer: every byte of it allowed, and the end behind it."""
    constraint = grammar.start()
    for byte in text.encode():
        if constraint.is_complete or byte not in may_follow(constraint):
            return False
        constraint.accept(byte)
    return constraint.is_complete or IM_END in may_follow(constraint)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (COMPACT, True),
        ('{"name": "Ann", "age": 5}', True),
        ('{\n  "name": "Ann",\n  "age": -5\n}', True),
        ('{\n\t"name": "Zoë 👩‍👩‍👧‍👦 \\n \\u0001",\n\t"age": 5\n}', True),
        ('{"name":"<|im_end|>","age":5}', True),
        ("", False),
        ("{}", False),
        ('{"age":5,"name":"Ann"}', False),
        ('{"name":"Ann","age":5.5}', False),
        ('{"name":"Ann","age":05}', False),
        ('{"name":"Ann","age":5,"more":1}', False),
        ('{"name":"Ann","age":5', False),
        ('{"name":"A\nnn","age":5}', False),
        (f" {COMPACT}", False),
        (f"{COMPACT} ", False),
        (f"```json\n{COMPACT}", False),
    ],
)
def test_json_that_fits_its_schema(compile: Compile, text: str, fits: bool) -> None:
    assert takes(compile(schema(PERSON)), text) is fits


def test_whitespace_has_an_end(compile: Compile) -> None:
    """A weak model would write blanks until its tokens are used up."""
    constraint = compile(schema(PERSON)).start()
    for byte in b"{\n":
        constraint.accept(byte)
    count = 0
    while ord(" ") in may_follow(constraint):
        constraint.accept(ord(" "))
        count += 1
    assert 20 <= count <= 100
    assert may_follow(constraint) == {ord('"')}


@pytest.mark.parametrize(
    ("text", "fits"),
    [("{}", True), ('{"a": [1, null, {"b": "c"}]}', True), ("[]", False), ('"text"', False)],
)
def test_any_object(compile: Compile, text: str, fits: bool) -> None:
    assert takes(compile(output_format.json_object("response_format")), text) is fits


def test_a_choice_is_one_of_the_texts_as_they_are(compile: Compile) -> None:
    choices = ["yes", "yes, sir", 'say "no"', "a\\b\n", "é👍🏽", "<|im_end|>", "/x/", " "]
    one_of = compile(output_format.choice(choices, "guided_choice"))
    assert [text for text in choices if not takes(one_of, text)] == []
    assert not any(takes(one_of, text) for text in ("y", "yes,", "no", "", "yes, sir!"))


def test_one_text_can_end_where_a_longer_one_goes_on(compile: Compile) -> None:
    constraint = compile(output_format.choice(["no", "none"], "guided_choice")).start()
    for byte in b"no":
        assert IM_END not in may_follow(constraint)
        constraint.accept(byte)
    assert may_follow(constraint) == {ord("n"), IM_END, END_OF_TEXT}
    assert not constraint.is_complete
    for byte in b"ne":
        constraint.accept(byte)
    assert constraint.is_complete


def test_a_regex_matches_the_whole_answer(compile: Compile) -> None:
    number = compile(regex(r"[0-9]{3}-[a-zé]+"))
    assert takes(number, "123-abcé")
    assert not any(takes(number, text) for text in ("123-", "12-a", "x123-a", "123-A"))


@pytest.mark.parametrize(
    "text",
    [
        'root ::= greeting " " name\ngreeting ::= "hi" | "hello"\nname ::= [A-Z] [a-z]*',
        'start: greeting " " NAME\ngreeting: "hi" | "hello"\nNAME: /[A-Z][a-z]*/',
    ],
    ids=["gbnf", "lark"],
)
def test_a_grammar(compile: Compile, text: str) -> None:
    greeting = compile(grammar(text))
    assert takes(greeting, "hello Ann") and takes(greeting, "hi B")
    assert not any(takes(greeting, text) for text in ("hello", "hello ann", "Hi Ann"))


def test_special_tokens_and_the_vocabulary_s_padding_are_never_text(compile: Compile) -> None:
    constraint = compile(regex(r"(.|\n)*")).start()
    constraint.accept(ord("x"))
    assert {i for i in may_follow(constraint) if i >= 256} == {IM_END, END_OF_TEXT}


def test_the_name_of_a_special_token_is_written_letter_by_letter(compile: Compile) -> None:
    """Where only one text is left the library asks the tokenizer how it is written."""
    constraint = compile(output_format.choice(["<|im_end|>!"], "guided_choice")).start()
    written = []
    while not constraint.is_complete:
        (token_id,) = may_follow(constraint)
        constraint.accept(token_id)
        written.append(token_id)
    assert bytes(written) == b"<|im_end|>!"


def test_answers_under_one_grammar_do_not_know_each_other(compile: Compile) -> None:
    yes_no = compile(output_format.choice(["yes", "no"], "guided_choice"))
    first, second = yes_no.start(), yes_no.start()
    first.accept(ord("y"))
    assert may_follow(first) == {ord("e")}
    assert may_follow(second) == {ord("y"), ord("n")} == may_follow(yes_no.start())


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"type": "objct"}, "", "objct"),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, ".properties.a", "strin"),
        (
            {"type": "array", "items": {"anyOf": [{}, {"type": "array", "uniqueItems": True}]}},
            ".items.anyOf[1]",
            "uniqueItems",
        ),
        ({"type": "object", "properties": {"a": 5}}, ".properties.a", "object or boolean"),
        (
            {"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}},
            ".properties.a",
            "look-around",
        ),
        ({"properties": {"a": {"pattern": "(a", "type": "string"}}}, ".properties.a", "unclosed"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, ".properties.a", "/$defs/none"),
        (
            {
                "$defs": {"n": {"properties": {"f": {"type": "string", "format": "shoe-size"}}}},
                "properties": {"a": {"$ref": "#/$defs/n"}},
            },
            ".$defs.n.properties.f",
            "shoe-size",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}},
                "required": ["a"],
            },
            ".properties.a",
            "minimum (5)",
        ),
        ({"properties": {"a": {"not": {"type": "string"}}}}, ".properties.a", "not"),
        ({"$ref": "https://example.com/schema"}, "", "example.com"),
        ({"enum": []}, "", "empty"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_enforced(
    compile: Compile, value: dict[str, Any], path: str, reason: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        compile(schema(value))
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason


def test_the_schema_s_own_options_cannot_make_it_lenient(compile: Compile) -> None:
    value = {"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True}
    with pytest.raises(GrammarError, match="uniqueItems"):
        compile(schema(value))


def test_a_schema_nested_without_measure(compile: Compile) -> None:
    value: dict[str, Any] = {}
    for _ in range(300):
        value = {"type": "array", "items": value}
    with pytest.raises(GrammarError, match="recursion"):
        compile(schema(value))


@pytest.mark.parametrize(
    "form",
    [regex("(a"), regex(r"(?<=a)b"), regex(r"[^\s\S]"), grammar("start: nothing"), grammar("")],
    ids=lambda form: form.source,
)
def test_what_is_no_regex_and_no_grammar(compile: Compile, form: OutputFormat) -> None:
    with pytest.raises(GrammarError):
        compile(form)


def test_a_grammar_too_complex_to_go_on_is_the_request_s_fault(tokens: LLTokenizer) -> None:
    """An answer, and not the engine, ends with it."""
    constraint = Grammar(compiled(tokens, regex("a*")), "guided_regex").start()
    with pytest.raises(RequestError) as caught:
        constraint.accept(ord("b"))
    assert caught.value.param == "guided_regex"
    with pytest.raises(RequestError):
        constraint.allowed()


def test_equal_forms_have_equal_keys() -> None:
    assert schema(PERSON).key == output_format.json_schema(PERSON, "guided_json").key
    turned = json.loads(json.dumps(PERSON))
    turned["properties"] = dict(reversed(turned["properties"].items()))
    assert schema(PERSON).key != schema(turned).key
    assert regex("a").key != grammar("a").key
    assert schema(PERSON).param == "response_format"


def test_a_vocabulary_smaller_than_the_model_s_output(tmp_path: Path) -> None:
    tokenizer = Tokenizer(tiny_model.make(tmp_path / "tiny"))
    tokens = grammar_tokens(tokenizer, 4096, (IM_END,))
    assert tokens.vocab_size == 4096
    form = regex(r"(.|\n)*")
    constraint = Grammar(compiled(tokens, form), form.param).start()
    assert max(may_follow(constraint)) == IM_END
