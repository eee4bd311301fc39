"""Each form is compiled once, away from the event loop, and in bounded time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.chat import output_format
from appliance.chat.grammar import Grammar
from appliance.chat.grammar_compiler import MAX_GRAMMARS, GrammarCompiler
from appliance.chat.output_format import OutputFormat
from appliance.chat.tokenizer import Tokenizer
from appliance.errors import RequestError
from tests.tiny_model import END_OF_TEXT, IM_END, VOCAB_SIZE

SLOW = {"type": "object", "properties": {f"property{i}": {"type": "string"} for i in range(1000)}}


class WatchedTokenizer(Tokenizer):
    """Notes on which threads the vocabulary was read."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__(model_dir)
        self.read_on: list[threading.Thread] = []

    def written_out(self, token_id: int) -> bytes:
        if token_id == 0:
            self.read_on.append(threading.current_thread())
        return super().written_out(token_id)


def run(
    model_dir: Path,
    test: Callable[[GrammarCompiler], Awaitable[None]],
    timeout_s: float = 30.0,
) -> WatchedTokenizer:
    async def on_a_loop() -> None:
        await test(
            GrammarCompiler(
                tokenizer,
                vocab_size=VOCAB_SIZE,
                eos_token_ids=(IM_END, END_OF_TEXT),
                timeout_s=timeout_s,
            )
        )

    tokenizer = WatchedTokenizer(model_dir)
    asyncio.run(on_a_loop())
    return tokenizer


def schema(value: dict[str, Any], place: str = "guided_json") -> OutputFormat:
    return output_format.json_schema(value, place)


def numbered(i: int) -> OutputFormat:
    return output_format.choice([str(i)], "guided_choice")


def is_same(left: Grammar, right: Grammar) -> bool:
    return left._matcher is right._matcher


def test_the_second_time_it_is_known(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        first = await compiler.compile(schema({"type": "object"}))
        again = await compiler.compile(output_format.json_object("response_format"))
        other = await compiler.compile(schema({"type": "array"}))
        assert is_same(first, again) and not is_same(first, other)

    run(tiny_model_dir, test)


def test_the_vocabulary_is_read_once_and_on_another_thread(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        assert tokenizer_of(compiler).read_on == []
        await asyncio.gather(*(compiler.compile(numbered(i)) for i in range(5)))

    def tokenizer_of(compiler: GrammarCompiler) -> WatchedTokenizer:
        assert isinstance(compiler._tokenizer, WatchedTokenizer)
        return compiler._tokenizer

    read_on = run(tiny_model_dir, test).read_on
    assert len(read_on) == 1 and read_on[0] is not threading.main_thread()


def test_asked_for_at_the_same_time_it_is_compiled_once(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        grammars = await asyncio.gather(*(compiler.compile(schema(SLOW)) for _ in range(8)))
        assert all(is_same(grammars[0], grammar) for grammar in grammars)

    run(tiny_model_dir, test)


def test_those_asked_for_last_are_kept(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        first = await compiler.compile(numbered(0))
        second = await compiler.compile(numbered(1))
        for i in range(2, MAX_GRAMMARS + 1):
            assert is_same(await compiler.compile(numbered(0)), first)
            await compiler.compile(numbered(i))
        assert is_same(await compiler.compile(numbered(0)), first)
        assert not is_same(await compiler.compile(numbered(1)), second)

    run(tiny_model_dir, test)


def test_the_event_loop_goes_on_meanwhile(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        await compiler.compile(numbered(0))  # the vocabulary
        compiling = asyncio.create_task(compiler.compile(schema(SLOW)))
        turns = 0
        while not compiling.done():
            await asyncio.sleep(0)
            turns += 1
        await compiling
        assert turns > 20

    run(tiny_model_dir, test)


def test_an_error_says_where_and_is_not_kept(tiny_model_dir: Path) -> None:
    bad = {"type": "object", "properties": {"age": {"type": "year"}}}

    async def test(compiler: GrammarCompiler) -> None:
        for place in ("response_format.json_schema.schema", "guided_json"):
            with pytest.raises(RequestError) as caught:
                await compiler.compile(schema(bad, place))
            assert str(caught.value).startswith(f"{place}.properties.age: ")
            assert "year" in str(caught.value)
            assert caught.value.param == place.partition(".")[0]
        await asyncio.sleep(0)
        assert not compiler._known

    run(tiny_model_dir, test)


def test_what_takes_too_long_is_refused_and_the_next_one_served(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        await compiler.compile(numbered(0))
        compiler._timeout_s = 0.002
        began = time.monotonic()
        with pytest.raises(
            RequestError, match=r"longer than 0\.002 s .*grammar_timeout_s"
        ) as caught:
            await compiler.compile(schema(SLOW))
        assert time.monotonic() - began < 5
        assert caught.value.param == "guided_json"
        compiler._timeout_s = 30
        await compiler.compile(numbered(1))
        await compiler.compile(schema(SLOW))

    run(tiny_model_dir, test)


def test_who_leaves_does_not_take_it_from_those_who_wait(tiny_model_dir: Path) -> None:
    async def test(compiler: GrammarCompiler) -> None:
        leaving = asyncio.create_task(compiler.compile(schema(SLOW)))
        waiting = asyncio.create_task(compiler.compile(schema(SLOW)))
        await asyncio.sleep(0)
        leaving.cancel()
        grammar = await waiting
        assert leaving.cancelled()
        assert is_same(await compiler.compile(schema(SLOW)), grammar)

    run(tiny_model_dir, test)
