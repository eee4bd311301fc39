"""More work than fits: preemption, deadlines, fairness, aborts and bursts, and nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Allocation, Chunk, Slot
from appliance.engine.generation import Generation
from appliance.engine.sequence import FinishReason
from appliance.errors import DeadlineExceededError, QueueFullError
from tests.appliance.engine.engine_harness import (
    Harness,
    answer_of,
    collect,
    expected,
    run,
    running,
    until,
)
from tests.fakes import FakeKVCache, FakeRunner

MIXES = pytest.mark.parametrize("mixes_phases", [False, True])


class Pool(FakeKVCache):
    """Slots that share the memory for `size` tokens; what nobody uses makes room when needed."""

    def __init__(self, max_slots: int, max_model_len: int, size: int) -> None:
        super().__init__(max_slots, max_model_len)
        self.size = size
        self.held: dict[int, int] = {}
        self.num_refused = 0

    def allocate(self, token_ids: Sequence[int]) -> Allocation | None:
        if sum(self.held.values()) + len(token_ids) > self.size:
            return None
        allocation = super().allocate(token_ids)
        if allocation is not None:
            self.held[allocation.slot] = allocation.num_cached_tokens
        return allocation

    def reserve(self, slot: Slot, num_tokens: int) -> bool:
        wanted = len(self.rows[slot]) + num_tokens
        rest = sum(self.held.values()) - self.held[slot]
        if wanted + rest > self.size:
            self.num_refused += 1
            return False
        self.held[slot] = max(wanted, self.held[slot])
        for index, row in enumerate(self.rows):
            if index not in self.used and self._num_taken() > self.size:
                row.clear()
        return super().reserve(slot, num_tokens)

    def commit(self, slot: Slot, token_ids: Sequence[int]) -> None:
        super().commit(slot, token_ids)
        assert len(self.rows[slot]) <= self.held[slot]
        assert self._num_taken() <= self.size, "more than there is"

    def free(self, slot: Slot, *, keep_prefix: bool) -> None:
        self.held.pop(slot, None)
        super().free(slot, keep_prefix=keep_prefix)

    def _num_taken(self) -> int:
        kept = sum(len(row) for i, row in enumerate(self.rows) if i not in self.used)
        return sum(self.held.values()) + kept


class DoubtfulRunner(FakeRunner):
    """Its tokens differ little in their chances, so that the sampler decides."""

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        return super().forward(chunks) * np.float32(0.1)


def pressed(
    mixes_phases: bool, *, max_slots: int = 4, size: int = 90, kind: type[FakeRunner] = FakeRunner
) -> tuple[FakeRunner, Pool]:
    """A runner, and a pool in which one of its answers fits for sure and four do not."""
    runner = kind(max_slots=max_slots, max_model_len=80, mixes_phases=mixes_phases)
    return runner, Pool(max_slots, 80, size)


async def preempted(harness: Harness, kv: Pool) -> None:
    """Wait until a sequence had to give its room back."""
    await until(lambda: harness.engine._scheduler.num_preemptions > 0)
    assert kv.num_refused


@MIXES
def test_answers_under_pressure_are_those_without(mixes_phases: bool) -> None:
    async def test() -> None:
        runner, kv = pressed(mixes_phases)
        prompts = [tuple(range(i, i + 5 + 3 * i)) for i in range(12)]
        async with running(runner, kv=kv, prefill_chunk=8, max_waiting=20) as harness:
            generations = [harness.submit(*p, max_tokens=35) for p in prompts]
            answers = await asyncio.gather(*map(answer_of, generations))
            assert harness.engine._scheduler.num_preemptions >= 3
        assert answers == [expected(p, 35) for p in prompts]

    run(test())


@MIXES
def test_a_sampled_answer_goes_on_with_its_own_chances(mixes_phases: bool) -> None:
    """Random stream and counts of what was said survive preemption."""

    async def answers(size: int) -> tuple[list[list[int]], int]:
        runner, kv = pressed(mixes_phases, size=size, kind=DoubtfulRunner)
        async with running(runner, kv=kv, prefill_chunk=8, max_waiting=20) as harness:
            generations = [harness.submit(i, i + 1, max_tokens=40, seed=i) for i in range(6)]
            told = await asyncio.gather(*map(answer_of, generations))
            return told, harness.engine._scheduler.num_preemptions

    async def test() -> None:
        calm, num_calm = await answers(1000)
        tight, num_tight = await answers(90)
        assert (num_calm, num_tight > 0) == (0, True)
        assert tight == calm
        assert len(set(map(tuple, calm))) == 6

    run(test())


@MIXES
def test_time_runs_out_for_a_preempted_sequence_too(mixes_phases: bool) -> None:
    async def test() -> None:
        runner, kv = pressed(mixes_phases, max_slots=2, size=70)
        runner.step_s = 0.02  # the second one has to wait from its 15th token to the first's 50th
        async with running(runner, kv=kv) as harness:
            first = harness.submit(*range(20), max_tokens=50)
            second = harness.submit(*range(30, 50), max_tokens=50, timeout_s=0.9)
            await preempted(harness, kv)
            with pytest.raises(DeadlineExceededError):
                await collect(second)
            assert await answer_of(first) == expected(range(20), 50)
            await harness.at_rest()

    run(test())


@MIXES
def test_an_abort_of_a_preempted_sequence_is_at_once_and_it_never_comes_back(
    mixes_phases: bool,
) -> None:
    async def test() -> None:
        runner, kv = pressed(mixes_phases, max_slots=2, size=70)
        async with running(runner, kv=kv) as harness:
            first = harness.submit(*range(20), max_tokens=50)
            second = harness.submit(*range(30, 50), max_tokens=50)
            await preempted(harness, kv)
            second.abort()
            await until(lambda: harness.engine.num_open <= 1)
            num_passes = len(runner.passes)
            assert await answer_of(first) == expected(range(20), 50)
            later = {c.token_ids[0] for chunks in runner.passes[num_passes + 1 :] for c in chunks}
            assert 30 not in later
            assert (await collect(second))[-1].finish_reason is FinishReason.ABORT
            await harness.at_rest()

    run(test())


@MIXES
def test_an_abort_in_the_middle_of_a_prompt_takes_at_most_one_step(mixes_phases: bool) -> None:
    async def test() -> None:
        runner = FakeRunner(max_slots=1, max_model_len=4096, mixes_phases=mixes_phases)
        async with running(runner, prefill_chunk=16) as harness:
            generation = harness.submit(*(i % 250 for i in range(4000)))
            await harness.passes(3)
            runner.gate.clear()
            before = len(runner.passes)
            generation.abort()
            runner.gate.set()
            await harness.at_rest()
            # One pass may have waited at the gate, another one not yet have reached it.
            assert len(runner.passes) <= before + 2
            assert (await collect(generation))[-1].finish_reason is FinishReason.ABORT
            # What was computed of the prompt is not computed again.
            outputs = await collect(harness.submit(*(i % 250 for i in range(4000)), max_tokens=1))
            assert outputs[0].num_cached_tokens >= 16 * before

    run(test())


@MIXES
@pytest.mark.parametrize("num_streams", [0, 1, 5])
def test_a_short_question_does_not_wait_behind_a_long_prompt(
    mixes_phases: bool, num_streams: int
) -> None:
    """20 tokens behind 4,000, with the default chunks; the long prompt goes on meanwhile."""

    async def test() -> None:
        runner = FakeRunner(max_slots=8, max_model_len=8192, mixes_phases=mixes_phases)
        async with running(
            runner, prefill_chunk=128, prefill_chunk_busy=64, max_waiting=8
        ) as harness:
            streams = [harness.submit(i, 7, max_tokens=4000) for i in range(num_streams)]
            await harness.passes(2 * num_streams)
            long = harness.submit(*(i % 250 for i in range(4000)), max_tokens=1)
            at = len(runner.passes)
            await harness.passes(at + 3)
            runner.gate.clear()
            short = harness.submit(*range(200, 220), max_tokens=1)
            asked_at = len(runner.passes)
            runner.gate.set()
            assert await answer_of(short) == expected(range(200, 220), 1)
            computed_at = [
                number
                for number, chunks in enumerate(runner.passes)
                if any(chunk.token_ids[-1] == 219 for chunk in chunks)
            ]
            # The pass at the gate, and a turn each of the long prompt and of the streams.
            assert computed_at[0] - asked_at <= 4
            assert len(await collect(long)) == 1
            long_at = [
                n for n, chunks in enumerate(runner.passes) if any(c.start > 3000 for c in chunks)
            ]
            assert long_at[0] > computed_at[0], "the long prompt was not done"
            for stream in streams:
                stream.abort()

    run(test())


def test_a_burst_of_500_fills_the_queue_and_no_more() -> None:
    async def test() -> None:
        runner = FakeRunner(max_slots=8)
        async with running(runner, max_waiting=64) as harness:
            runner.gate.clear()
            accepted: dict[int, Generation] = {}
            told: list[int] = []
            for i in range(500):
                try:
                    accepted[i] = harness.submit(i % 250, i // 250, max_tokens=3)
                except QueueFullError as error:
                    told.append(error.retry_after_s)
                assert harness.engine.num_open <= 72
            assert list(accepted) == list(range(72)), "first come, first served"
            assert len(told) == 428 and all(1 <= seconds <= 60 for seconds in told)
            runner.gate.set()
            answers = await asyncio.gather(*map(answer_of, accepted.values()))
            assert answers == [expected((i % 250, i // 250), 3) for i in accepted]
            await harness.at_rest()
            assert await answer_of(harness.submit(1, max_tokens=1)) == expected((1,), 1)

    run(test())


def test_those_who_are_refused_together_are_told_different_times() -> None:

    async def test() -> None:
        runner = FakeRunner(max_slots=1, step_s=0.02)
        async with running(runner, max_waiting=0) as harness:
            began = time.monotonic()
            for i in range(3):  # ten tokens, 0.2 s each, or more on a busy machine
                await answer_of(harness.submit(i, max_tokens=10))
            between_s = (time.monotonic() - began) / 3
            harness.submit(9, max_tokens=10)
            told = []
            for _ in range(10):
                with pytest.raises(QueueFullError) as caught:
                    harness.submit(1)
                told.append(caught.value.retry_after_s)
            # As far apart as answers end, in whole seconds.
            assert told == sorted(told)
            assert told[0] == pytest.approx(between_s, abs=1.5)
            assert told[-1] - told[0] == pytest.approx(9 * between_s, abs=1.5)
            assert told[-1] > told[0]

    run(test())


@MIXES
def test_nothing_is_left_of_thousands_that_came_and_went(mixes_phases: bool) -> None:
    async def test() -> None:
        runner, kv = pressed(mixes_phases)
        chance = random.Random(4)

        async def one(harness: Harness, i: int) -> None:
            prompt = [chance.randrange(250) for _ in range(chance.randint(1, 40))]
            timeout_s = 0.005 if i % 11 == 0 else 60.0
            generation = harness.submit(*prompt, max_tokens=1 + i % 20, timeout_s=timeout_s)
            try:
                if i % 3 == 0:
                    await asyncio.sleep(chance.random() * 0.004)
                    generation.abort()
                assert (await collect(generation))[-1].finish_reason is not None
            except DeadlineExceededError:
                assert i % 11 == 0

        async with running(runner, kv=kv, prefill_chunk=8, max_waiting=100) as harness:
            for wave in range(40):
                await asyncio.gather(*(one(harness, wave * 50 + i) for i in range(50)))
                await harness.at_rest()
                kv.check_integrity()
            assert generations_alive() - alive_before <= 2, "the last step's, at most"

    # Another test may have left some behind, such as those of an engine that died.
    alive_before = generations_alive()
    run(test())


def generations_alive() -> int:
    gc.collect()
    return sum(isinstance(o, Generation) for o in gc.get_objects())
