"""Runs the measurement: which requests are sent, in which order, side by side or one by one.

For every concurrency C and prompt size, conversations run in waves of C. A wave has up to three
steps, and each waits for the one before: all C prompts new; the same C once more; the next turn of
all C. So a kind is never measured while another one runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from appliance.bench.client import ChatClient
from appliance.bench.plan import NEW, REPEATED, Message, Plan, Row
from appliance.bench.prompts import Calibration, PromptMaker, calibration
from appliance.bench.reply import Reply

_CALIBRATION_WORDS = (8, 64)
_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured request; `start_s` counts from the beginning of the measurement."""

    row: Row
    conversation: int
    start_s: float
    reply: Reply


@dataclass(slots=True)
class Measured:
    """Everything that was measured.

    `busy_s` is, per row, the time during which at least one of its requests ran. `skipped` counts
    the requests not sent because the conversation's first one had failed. `warm_up` has the replies
    that are in no figure.
    """

    calibration: Calibration
    warm_up: list[Reply] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    busy_s: dict[Row, float] = field(default_factory=dict)
    skipped: dict[Row, int] = field(default_factory=dict)


class _Conversation(NamedTuple):
    number: int
    opening: list[Message]


Progress = Callable[[str], None]


async def measure(client: ChatClient, plan: Plan, progress: Progress) -> Measured:
    """Warm up, then measure all of `plan`; `progress` is told in a few words what runs now.

    Raises `BenchError` when the very first request already fails.
    """
    return await _Measurement(client, plan, progress).run()


class _Measurement:
    def __init__(self, client: ChatClient, plan: Plan, progress: Progress) -> None:
        self._client, self._plan, self._progress = client, plan, progress
        self._prompts = PromptMaker(plan.language, plan.seed, system_message=plan.system_message)
        self._start = time.perf_counter()

    async def run(self) -> Measured:
        self._progress("warm-up")
        self._measured = Measured(await self._calibrate())
        for concurrency in self._plan.concurrency:
            await self._warm_up(concurrency)
            for prompt_tokens in self._plan.prompt_tokens:
                await self._run_size(concurrency, prompt_tokens)
        return self._measured

    async def _calibrate(self) -> Calibration:
        counts = []
        for num_words in _CALIBRATION_WORDS:
            reply = await self._client.negotiate(
                self._plan.model, self._prompts.opening(num_words), _WARM_UP_TOKENS
            )
            counts.append((num_words, reply.num_prompt_tokens))
        return calibration(counts)

    async def _warm_up(self, concurrency: int) -> None:
        """As many requests at once as will be measured at once: opens the connections for them."""
        openings = [self._prompts.opening(_CALIBRATION_WORDS[0]) for _ in range(concurrency)]
        self._measured.warm_up += await asyncio.gather(
            *(self._send(messages, _WARM_UP_TOKENS) for messages in openings)
        )

    async def _run_size(self, concurrency: int, prompt_tokens: int) -> None:
        num_words = self._measured.calibration.words_for(prompt_tokens)
        num_waves = -(-self._plan.num_requests // concurrency)  # full ones: a part would idle
        for number in range(num_waves):
            self._progress(
                f"concurrency {concurrency}, {prompt_tokens} prompt tokens: "
                f"wave {number + 1} of {num_waves}"
            )
            wave = [
                _Conversation(number * concurrency + seat, self._prompts.opening(num_words))
                for seat in range(concurrency)
            ]
            await self._run_wave(wave, concurrency, prompt_tokens)

    async def _run_wave(
        self, wave: list[_Conversation], concurrency: int, prompt_tokens: int
    ) -> None:
        """The steps of one wave. The first one also makes the history of the others."""
        new = Row(concurrency, prompt_tokens, NEW)
        replies = await self._run_step(new, [(c.number, c.opening) for c in wave])
        usable = [(c, r) for c, r in zip(wave, replies, strict=True) if r.error is None]
        for kind in self._plan.kinds:
            if kind == NEW:
                continue
            row = Row(concurrency, prompt_tokens, kind)
            self._measured.skipped[row] = (
                self._measured.skipped.get(row, 0) + len(wave) - len(usable)
            )
            requests = [
                (
                    conversation.number,
                    conversation.opening
                    if kind == REPEATED
                    else self._prompts.next_turn(conversation.opening, reply.text),
                )
                for conversation, reply in usable
            ]
            await self._run_step(row, requests)

    async def _run_step(self, row: Row, requests: list[tuple[int, list[Message]]]) -> list[Reply]:
        """Send `requests` at once, wait for all, and record them under `row`."""
        start = time.perf_counter()
        replies = await asyncio.gather(
            *(self._send(messages, self._plan.max_tokens) for _, messages in requests)
        )
        measured = self._measured
        measured.busy_s[row] = measured.busy_s.get(row, 0.0) + time.perf_counter() - start
        measured.samples.extend(
            Sample(row, number, start - self._start, reply)
            for (number, _), reply in zip(requests, replies, strict=True)
        )
        return replies

    async def _send(self, messages: list[Message], max_tokens: int) -> Reply:
        return await self._client.stream(self._plan.model, messages, max_tokens)
