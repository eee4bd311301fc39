"""The one generator behind streams and whole answers: text, ends, counts, letting go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.chat.completion import Completion, Delta
from appliance.chat.detokenizer import Detokenizer
from appliance.chat.scored_tokens import ScoredTokens
from appliance.chat.stop_strings import StopStrings
from appliance.chat.tokenizer import Tokenizer
from appliance.engine.generation import Generation
from appliance.engine.sequence import FinishReason, StepOutput
from appliance.engine.token_scores import TokenScores
from appliance.errors import DeadlineExceededError
from tests.tiny_model import make


class Script:
    """A completion whose engine is played by hand: one byte is one token."""

    def __init__(self, tokenizer: Tokenizer, *stop: str, scored: bool = False) -> None:
        self.ends: list[FinishReason] = []
        self.generation = Generation(self.ends.append, max_tokens=1000)
        self.completion = Completion(
            self.generation,
            Detokenizer(tokenizer),
            StopStrings(stop),
            num_prompt_tokens=5,
            scored=ScoredTokens(tokenizer) if scored else None,
        )

    def answer(
        self,
        text: str | bytes,
        reason: FinishReason | None = None,
        *,
        num_cached_tokens: int = 3,
    ) -> None:
        """One step for each byte, and a last one with the reason, if there is one."""
        data = text.encode() if isinstance(text, str) else text
        for byte in data:
            self.generation.deliver(StepOutput((byte,), num_cached_tokens))
        if reason is not None:
            self.generation.deliver(StepOutput((), num_cached_tokens, reason))

    async def deltas(self) -> list[Delta]:
        async def all_deltas() -> list[Delta]:
            return [delta async for delta in self.completion.deltas()]

        return await asyncio.wait_for(all_deltas(), 10)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = make(tmp_path_factory.mktemp("model") / "tiny")
    return Tokenizer(directory)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await test()

    asyncio.run(awaited())


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT])
def test_only_the_last_delta_has_a_reason(tokenizer: Tokenizer, reason: FinishReason) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("你 ok", reason)
        assert await script.deltas() == [
            *(Delta(text, None) for text in ("你", " ", "o", "k")),
            Delta("", reason),
        ]
        assert script.ends == []

    run(test)


def test_a_token_that_comes_with_the_reason_is_part_of_the_answer(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("o")
        script.generation.deliver(StepOutput((ord("k"),), 0, FinishReason.LENGTH))
        assert await script.deltas() == [Delta("o", None), Delta("k", FinishReason.LENGTH)]
        assert script.completion.num_output_tokens == 2

    run(test)


def test_what_one_step_gave_is_one_delta(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.generation.deliver(StepOutput(tuple("你好 w".encode()), 0))
        script.generation.deliver(StepOutput(tuple(b"ell"), 0, FinishReason.STOP))
        assert await script.deltas() == [Delta("你好 w", None), Delta("ell", FinishReason.STOP)]
        assert script.completion.num_output_tokens == len("你好 well".encode())

    run(test)


def test_tokens_of_a_step_behind_a_stop_string_are_neither_shown_nor_counted(
    tokenizer: Tokenizer,
) -> None:
    """With and without drafts the same answer has the same usage."""

    async def test() -> None:
        script = Script(tokenizer, "END")
        script.generation.deliver(StepOutput(tuple(b"one EN"), 0))
        script.generation.deliver(StepOutput(tuple(b"D two"), 0, FinishReason.LENGTH))
        assert await script.deltas() == [Delta("one ", None), Delta("", FinishReason.STOP)]
        assert script.completion.num_output_tokens == len("one END")

    run(test)


def test_counts_grow_with_every_delta(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("你a", FinishReason.STOP, num_cached_tokens=4)
        counts = []
        async for _ in script.completion.deltas():
            counts.append(script.completion.num_output_tokens)
        # The three tokens of the first character came together.
        assert counts == [3, 4, 4]
        assert script.completion.num_prompt_tokens == 5
        assert script.completion.num_cached_tokens == 4

    run(test)


def test_a_stop_string_over_several_tokens_ends_the_answer_and_stops_computing(
    tokenizer: Tokenizer,
) -> None:
    async def test() -> None:
        script = Script(tokenizer, "\nUser:", "停止")
        script.answer("one\nUse two停止three")
        deltas = await script.deltas()
        assert text_of(deltas) == "one\nUse two"
        assert deltas[-1].finish_reason is FinishReason.STOP
        assert script.ends == [FinishReason.STOP]
        # Counted are the tokens that were computed for it, not those behind the stop string.
        assert script.completion.num_output_tokens == len("one\nUse two停止".encode())

    run(test)


def test_no_part_of_a_stop_string_is_let_out_before_it_is_known(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer, "END")
        script.answer("aENbEND")
        shown = [delta.text async for delta in script.completion.deltas()]
        assert shown == ["a", "ENb", ""]

    run(test)


def test_what_was_held_back_comes_with_the_end(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer, "END")
        script.answer("aEN", FinishReason.LENGTH)
        assert await script.deltas() == [Delta("a", None), Delta("EN", FinishReason.LENGTH)]

    run(test)


@pytest.mark.parametrize(
    ("reason", "rest"), [(FinishReason.STOP, "\ufffd"), (FinishReason.LENGTH, "")]
)
def test_an_answer_that_ends_inside_a_character(
    tokenizer: Tokenizer, reason: FinishReason, rest: str
) -> None:
    """Where the model ended it, that shows; where it was cut, the model wrote nothing wrong."""

    async def test() -> None:
        script = Script(tokenizer)
        script.answer(b"a\xe4\xbd", reason)
        assert await script.deltas() == [Delta("a", None), Delta(rest, reason)]

    run(test)


def test_a_stop_string_that_the_very_end_completes_is_a_stop(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer, "a\ufffd")
        script.answer(b"xa\xe4", FinishReason.STOP)
        assert await script.deltas() == [Delta("x", None), Delta("", FinishReason.STOP)]

    run(test)


def test_an_empty_answer_has_one_delta(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("", FinishReason.STOP)
        assert await script.deltas() == [Delta("", FinishReason.STOP)]

    run(test)


def test_leaving_the_iterator_early_stops_computing(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("abc")
        deltas = script.completion.deltas()
        assert await anext(deltas) == Delta("a", None)
        await deltas.aclose()  # type: ignore[attr-defined]
        assert script.ends == [FinishReason.ABORT]
        script.completion.abort()
        assert script.ends == [FinishReason.ABORT]

    run(test)


def test_a_reader_that_is_cancelled_stops_computing(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        reader = asyncio.create_task(script.deltas())
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert script.ends == [FinishReason.ABORT]

    run(test)


def test_a_completion_that_was_never_read_can_be_let_go(tokenizer: Tokenizer) -> None:
    """An async generator that never began runs no `finally`: whoever holds it calls abort()."""

    async def test() -> None:
        script = Script(tokenizer)
        script.completion.deltas()
        script.completion.abort()
        script.completion.abort()
        assert script.ends == [FinishReason.ABORT]

    run(test)


def test_an_abort_ends_the_deltas_of_a_reader_that_waits(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("a")
        reader = asyncio.create_task(script.deltas())
        await asyncio.sleep(0.01)
        script.completion.abort()
        assert await reader == [Delta("a", None), Delta("", FinishReason.ABORT)]

    run(test)


def test_an_error_comes_behind_what_was_answered(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("ab")
        script.generation.deliver(StepOutput((), 0, FinishReason.ERROR, DeadlineExceededError(1.5)))
        shown = []
        with pytest.raises(DeadlineExceededError, match=r"1\.5 s"):
            async for delta in script.completion.deltas():
                shown.append(delta.text)
        assert shown == ["a", "b"]
        assert script.ends == []

    run(test)


def scored(token_id: int) -> TokenScores:
    return TokenScores(-0.5, ((token_id, -0.5), (7, -2.0)))


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello", (), "hello"),
        ("a你👍b", (), "a你👍b"),
        ("abcabd!", ("abd",), "abc"),
        ("你好", ("好",), "你"),
        ("xyz", ("xyz",), ""),
        ("ab", ("abc",), "ab"),
    ],
)
def test_scored_tokens_go_with_the_text_they_begin_in(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...], expected: str, step: int
) -> None:
    """However many tokens a step gives."""

    async def test() -> None:
        script = Script(tokenizer, *stop, scored=True)
        data = text.encode()
        for start in range(0, len(data), step):
            ids = tuple(data[start : start + step])
            output = StepOutput(ids, 0, scores=tuple(map(scored, ids)))
            script.generation.deliver(output)
        script.generation.deliver(StepOutput((), 0, FinishReason.LENGTH))
        deltas = await script.deltas()
        assert text_of(deltas) == expected
        shown = ""
        for delta in deltas:
            written = b"".join(token.chosen.written for token in delta.tokens)
            assert written.decode() == delta.text
            offsets = [token.offset for token in delta.tokens]
            assert offsets == sorted(offsets)
            assert all(len(shown) <= at <= len(shown) + len(delta.text) for at in offsets)
            shown += delta.text

    run(test)


def test_tokens_of_a_character_that_is_never_whole_come_last(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer, scored=True)
        ids = tuple("a你".encode()[:3])
        script.generation.deliver(
            StepOutput(ids, 0, FinishReason.LENGTH, scores=tuple(map(scored, ids)))
        )
        (delta,) = await script.deltas()
        assert delta.text == "a"
        assert [token.chosen.written[0] for token in delta.tokens] == list(ids)
        assert delta.tokens[0].top[1].written == b"\x07"

    run(test)


def test_unscored_tokens_are_not_kept(tokenizer: Tokenizer) -> None:
    async def test() -> None:
        script = Script(tokenizer)
        script.answer("ok", FinishReason.STOP)
        assert all(delta.tokens == () for delta in await script.deltas())

    run(test)
