"""Calls as small models write them, in pieces of any size: nothing is taken back, nothing leaks."""

from __future__ import annotations

import json
import random

import pytest

from appliance.chat.tool_parser import CallDelta, ToolCallParser

NAMES = ("get_weather", "add")
CALL = '{"name": "get_weather", "arguments": {"city": "P}a\\"r{is]", "days": [1, {"a": null}]}}'
ARGUMENTS = '{"city": "P}a\\"r{is]", "days": [1, {"a": null}]}'
WEATHER = ("get_weather", ARGUMENTS)
ADD = '{"name": "add", "arguments": {"a": 1}}'
ADDED = ("add", '{"a": 1}')

Calls = list[tuple[str, str]]


class Read:
    """What a reader of the parsed pieces has in the end; pieces that do not fit fail."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[list[str]] = []
        self.ids: list[str] = []

    def take(self, text: str, deltas: tuple[CallDelta, ...]) -> None:
        assert not (text and self.calls), "text behind a call"
        self.text += text
        for delta in deltas:
            if delta.name is not None:
                assert delta.index == len(self.calls) and delta.id
                self.calls.append([delta.name, ""])
                self.ids.append(delta.id)
            assert delta.index == len(self.calls) - 1
            self.calls[-1][1] += delta.arguments


def read(
    text: str, sizes: random.Random | int, *, cut: bool = False, max_calls: int | None = None
) -> tuple[str, Calls]:
    """Feed `text` in pieces of one size, or of random ones."""
    parser, result = ToolCallParser(NAMES, max_calls=max_calls), Read()
    while text:
        size = sizes if isinstance(sizes, int) else sizes.randint(1, 9)
        parsed = parser.feed(text[:size])
        result.take(parsed.text, parsed.calls)
        text = text[size:]
    parsed = parser.feed_last("", cut=cut)
    result.take(parsed.text, parsed.calls)
    assert len(set(result.ids)) == len(result.ids)
    return result.text, [(name, arguments) for name, arguments in result.calls]


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


TEXTS = [
    "",
    "Hello there.",
    "  \n blanks around it \n\n",
    'in a line {"name": "add"} and 1 < 2 and a[0]',
    "a <b> and <tool_box> and </tool",
    "<tool_call",
    "`code` and ```\nblock\n``` and ``` again",
    '```json\n{"foo": [1, 2]}\n```\nThat is JSON.',
    '```python\nprint({"name": "add"})\n```',
    '{"name": "Bob", "arguments": {"a": 1}}',
    '{"answer": {"name": "add"}}\n[1, 2]\n[{"x": 1}]',
    '{"name": "ad',
    "[",
    "```",
    '{"question": "' + 300 * "long " + '"}',
    "line\n  {not json}\n",
]

CALLS: list[tuple[str, str, Calls]] = [
    (tagged(CALL), "", [WEATHER]),
    (f"I will look.\n\n{tagged(CALL)}", "I will look.", [WEATHER]),
    (f"{tagged(CALL)}\n{tagged(ADD)}", "", [WEATHER, ADDED]),
    (f"{tagged(CALL)}\n\nThe weather is {{fine}} <b>", "", [WEATHER]),
    (f"<tool_call>{ADD}</tool_call>", "", [ADDED]),
    (f"<tool_call>\n{ADD}", "", [ADDED]),
    (f"<tool_call>[{ADD}, {CALL}]</tool_call>", "", [ADDED, WEATHER]),
    (tagged('{"arguments": {"a": 1}, "name": "add"}'), "", [ADDED]),
    (tagged('{"id": 7, "name": "add", "arguments": {"a": 1}, "x": [2]}'), "", [ADDED]),
    (tagged('{"name": "add", "parameters": {"a": 1}}'), "", [ADDED]),
    (tagged('{"name": "add", "arguments": "{\\"a\\": 1}"}'), "", [ADDED]),
    (tagged('{"name": "add", "arguments": null}'), "", [("add", "{}")]),
    (tagged('{"name": "add"}'), "", [("add", "{}")]),
    (tagged('{"name": "unknown", "arguments": {}}'), "", [("unknown", "{}")]),
    # Brackets, quotes and tags that are missing.
    (tagged('{"name": "add", "arguments": {"a": 1}'), "", [ADDED]),
    (tagged('{"name": "add", "arguments": {"a": [1'), "", [("add", '{"a": [1\n]}')]),
    ('<tool_call>{"name": "add", "arguments": {"a": "x', "", [("add", '{"a": "x"}')]),
    ('<tool_call>{"name": "add", "arguments": {"a": "x\\', "", [("add", '{"a": "x\\\\"}')]),
    # No tags at all.
    (CALL, "", [WEATHER]),
    (f"```json\n{CALL}\n```", "", [WEATHER]),
    (f"Sure:\n```\n{CALL}\n```\nThat gets it.", "Sure:", [WEATHER]),
    (f"[{CALL}, {ADD}]", "", [WEATHER, ADDED]),
    (f"{CALL}\n{ADD}", "", [WEATHER, ADDED]),
    ('{\n  "name": "add",\n  "arguments": {"a": 1}\n}', "", [ADDED]),
    ('{"x": 1}\n{"name": "add", "arguments": {"a": 1}}', '{"x": 1}', [ADDED]),
    # The tags in which the tools were shown.
    (f"<tools>\n{CALL}\n</tools>", "", [WEATHER]),
    # What is no call, in a call's tags: text without them.
    ("<tool_call>add(1)</tool_call>", "add(1)", []),
    (tagged('{"a": 1}'), '{"a": 1}', []),
    # A result said again as it was shown.
    ('<tool_response>\n{"sky": "clear"}\n</tool_response>', '{"sky": "clear"}', []),
]

SIZES = [1, 2, 3, 5, 8, 1000, *(random.Random(seed) for seed in range(5))]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_out_as_it_is(text: str) -> None:
    for size in SIZES:
        assert read(text, size) == (text, [])


@pytest.mark.parametrize(("text", "content", "calls"), CALLS)
def test_calls_are_found_however_they_are_written(text: str, content: str, calls: Calls) -> None:
    for size in SIZES:
        found, found_calls = read(text, size)
        assert (found.strip(), found_calls) == (content, calls)


@pytest.mark.parametrize(("text", "content", "calls"), CALLS)
def test_wherever_it_is_cut_what_came_is_a_beginning(text: str, content: str, calls: Calls) -> None:
    """Cut short by max_tokens, the arguments are not closed: they are not whole."""
    for end in range(len(text)):
        found, found_calls = read(text[:end], 1, cut=True)
        if not found_calls:
            continue
        assert found.strip() == content
        for (name, arguments), (whole_name, whole_arguments) in zip(
            found_calls, calls, strict=False
        ):
            assert name == whole_name
            assert whole_arguments.startswith(arguments) or json.loads(arguments) == json.loads(
                whole_arguments
            )


def test_arguments_come_as_they_are_written() -> None:
    parser = ToolCallParser(NAMES)
    parser.feed('<tool_call>\n{"name": "add", ')
    pieces = ['"arguments": {"a"', ": 1", '2, "b": "x', 'y"', "}", "}\n</tool_call>"]
    told = [[d.arguments for d in parser.feed(piece).calls if d.arguments] for piece in pieces]
    assert told == [['{"a"'], [": 1"], ['2, "b": "x'], ['y"'], ["}"], []]


def test_the_name_is_told_before_the_arguments() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.feed('<tool_call>\n{"name": "ad').calls == ()
    (delta,) = parser.feed('d"').calls
    assert (delta.index, delta.name, delta.arguments) == (0, "add", "")
    assert delta.id is not None and delta.id.startswith("call_")


def test_text_is_not_held_back_without_need() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.feed("Hello").text == "Hello"
    assert parser.feed(" <").text == ""
    assert parser.feed("b> ").text == " <b>"
    assert parser.feed("and\n").text == " and"
    assert parser.feed('{"a').text == ""
    assert parser.feed('": 1').text == '\n{"a": 1'


@pytest.mark.parametrize("max_calls", [1, 2])
def test_of_more_calls_than_wanted_the_first_are_told(max_calls: int) -> None:
    text = "\n".join([tagged(CALL), tagged(ADD), tagged(CALL)])
    assert read(text, 3, max_calls=max_calls) == ("", [WEATHER, ADDED, WEATHER][:max_calls])


def test_any_garbage_is_read_to_its_end() -> None:
    """Pieces of calls in any order: no error, no tag in the text, calls only with a name."""
    words = ["<tool_call>", "</tool_call>", "{", "}", "[", '"', "name", "add", ":", ",", "\n", "\\"]
    words += ['"name": "add"', '"arguments": ', "```json\n", "<", "text ", "<tools>", CALL, "1"]
    for seed in range(3000):
        choose = random.Random(seed)
        text = "".join(choose.choices(words, k=choose.randint(1, 25)))
        whole = read(text, 10_000)
        assert read(text, choose) == whole == read(text, 1), text
        assert "<tool_call>" not in whole[0] and all(name for name, _ in whole[1])
