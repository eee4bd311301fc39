"""Compiles the forms that requests ask for, each once, and away from who must not wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from llguidance import LLMatcher, LLTokenizer

from appliance.chat.grammar import Grammar, GrammarError, compiled
from appliance.chat.grammar_tokens import grammar_tokens
from appliance.chat.output_format import OutputFormat
from appliance.chat.tokenizer import Tokenizer
from appliance.errors import RequestError

MAX_GRAMMARS = 64
"""How many compiled forms are kept, those asked for last; one takes about 0.1 MB."""


class GrammarCompiler:
    """Forms to grammars. Lives on the event loop's thread, and compiles on others, one at a time.

    `timeout_s` is what one form may take; the vocabulary, which the first one waits for, not
    counted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        timeout_s: float,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._timeout_s = timeout_s
        self._tokens: LLTokenizer | None = None
        self._one_at_a_time = asyncio.Lock()
        # Also those that are being compiled: whoever asks meanwhile waits for the same one.
        self._known: OrderedDict[str, asyncio.Task[LLMatcher]] = OrderedDict()

    async def compile(self, form: OutputFormat) -> Grammar:
        """The grammar of `form`. Raises `RequestError` that says what is wrong with it, and where.

        Who asked may leave: it is compiled all the same, for others and for the next time.
        """
        task = self._known.get(form.key)
        if task is None:
            task = self._known[form.key] = asyncio.create_task(self._compile(form))
            task.add_done_callback(lambda done: self._compiled(form.key, done))
        self._known.move_to_end(form.key)
        while len(self._known) > MAX_GRAMMARS:
            self._known.popitem(last=False)
        try:
            return Grammar(await asyncio.shield(task), form.param)
        except GrammarError as error:
            message = f"{form.place}{error.path}: {error.reason}"
            raise RequestError(message, form.param) from error

    async def _compile(self, form: OutputFormat) -> LLMatcher:
        async with self._one_at_a_time:
            if self._tokens is None:
                self._tokens = await asyncio.to_thread(
                    grammar_tokens, self._tokenizer, self._vocab_size, self._eos_token_ids
                )
            work = asyncio.ensure_future(asyncio.to_thread(compiled, self._tokens, form))
            done, _ = await asyncio.wait({work}, timeout=self._timeout_s)
        if done:
            return work.result()
        # Its thread cannot be stopped; llguidance's own limits end it soon.
        work.add_done_callback(_look_at)
        raise GrammarError(
            f"took longer than {self._timeout_s:g} s to compile "
            "(generation.grammar_timeout_s); simplify it"
        )

    def _compiled(self, key: str, task: asyncio.Task[LLMatcher]) -> None:
        _look_at(task)
        failed = task.cancelled() or task.exception() is not None
        if failed and self._known.get(key) is task:
            del self._known[key]


def _look_at(done: asyncio.Future[LLMatcher]) -> None:
    """Nobody may wait for it any more; asyncio would report its error as forgotten."""
    if not done.cancelled():
        done.exception()
