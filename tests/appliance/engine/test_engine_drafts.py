"""The engine with prompt lookup, on the fakes: the same answers in fewer passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Backend, Chunk, Slot
from appliance.engine.engine import Engine
from appliance.engine.generation import Generation
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import FinishReason, StepOutput
from tests.appliance.engine.engine_harness import until
from tests.fakes import FakeKVCache, FakeRunner, NextToken, echo_sum, fake_backend

PATIENCE_S = 20.0
DOCUMENT = (5, *range(100, 140), 6)


def copying(length: int = len(DOCUMENT), change_every: int = 0) -> NextToken:
    """Says its prompt, `length` tokens, again and again; every so often something else."""

    def next_token(token_ids: Sequence[int]) -> int:
        if change_every and len(token_ids) % change_every == 0:
            return echo_sum(token_ids) % 50 + 200
        return token_ids[max(0, len(token_ids) - length)]

    return next_token


def copying_from(start: int) -> NextToken:
    """Copies if the prompt begins with `start`, and otherwise says what was never said."""
    copy = copying()
    return lambda ids: copy(ids) if ids[0] == start else 150 + len(ids) % 140


class SoftRunner(FakeRunner):
    """Prefers what `next_token` says, and leaves every other token a chance."""

    def logits_behind(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        noise = np.random.default_rng(echo_sum(token_ids) * 1000 + len(token_ids))
        logits = noise.normal(0, 1, self.limits.vocab_size).astype(np.float32)
        logits[self.next_token(token_ids)] = 8
        return logits


class OneBlockShort(FakeKVCache):
    """Has never room for more than one token at a time once a prompt is computed."""

    def reserve(self, slot: Slot, num_tokens: int) -> bool:
        decodes = len(self.rows[slot]) >= len(DOCUMENT)
        return super().reserve(slot, num_tokens) and not (decodes and num_tokens > 1)


def greedy(max_tokens: int, *stop_token_ids: int) -> SamplingParams:
    return SamplingParams(max_tokens, temperature=0, stop_token_ids=frozenset(stop_token_ids))


class Ran:
    """What an engine answered and how: it has been closed, and nothing is left in it."""

    def __init__(self, backend: Backend, engine: Engine, outputs: list[list[StepOutput]]) -> None:
        assert isinstance(backend.runner, FakeRunner) and isinstance(backend.kv, FakeKVCache)
        self.runner, self.kv, self.engine, self.outputs = (
            backend.runner,
            backend.kv,
            engine,
            outputs,
        )

    @property
    def answers(self) -> list[list[int]]:
        return [[i for o in outputs for i in o.token_ids] for outputs in self.outputs]

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for chunks in self.runner.passes for chunk in chunks]


def ran(
    runner: FakeRunner,
    *requests: tuple[Sequence[int], SamplingParams],
    max_draft_tokens: int = 7,
    kv: FakeKVCache | None = None,
    meanwhile: Callable[[Backend, list[Generation]], Awaitable[None]] | None = None,
) -> Ran:
    """Submit all requests at once and wait for their ends, `meanwhile` running beside."""

    async def run() -> Ran:
        backend = fake_backend(runner)
        if kv is not None:
            backend = Backend(kv, runner, "fake")
        engine = Engine(backend, prefill_chunk=16, max_waiting=8, max_draft_tokens=max_draft_tokens)
        engine.start()
        try:
            runner.gate.clear()
            generations = [engine.submit(tuple(p), s, timeout_s=60) for p, s in requests]
            runner.gate.set()
            if meanwhile is not None:
                await asyncio.wait_for(meanwhile(backend, generations), PATIENCE_S)
            outputs = await asyncio.wait_for(asyncio.gather(*map(_all, generations)), PATIENCE_S)
        finally:
            runner.gate.set()
            await engine.close()
        assert engine.num_open == 0 and engine.kv_stats().num_slots_used == 0
        backend.kv.check_integrity()
        return Ran(backend, engine, outputs)

    return asyncio.run(run())


async def _all(generation: Generation) -> list[StepOutput]:
    return [output async for output in generation.outputs()]


@pytest.mark.parametrize("kind", ["turns", "mixing", "padded"])
@pytest.mark.parametrize("model", [copying(), copying(change_every=5), copying(3), echo_sum])
def test_greedy_answers_are_the_same_with_and_without(model: NextToken, kind: str) -> None:
    prompts = [DOCUMENT, (*DOCUMENT[3:], 1, 2, 3), tuple(range(50, 57)), DOCUMENT[:9]]
    requests = [(prompt, greedy(40 + i)) for i, prompt in enumerate(prompts)]

    def answers(max_draft_tokens: int) -> Ran:
        runner = FakeRunner(
            model, max_slots=3, mixes_phases=kind == "mixing", pads_rows=kind == "padded"
        )
        return ran(runner, *requests, max_draft_tokens=max_draft_tokens)

    with_drafts, without = answers(7), answers(0)
    assert with_drafts.answers == without.answers
    assert [len(answer) for answer in with_drafts.answers] == [40, 41, 42, 43]
    assert without.engine.drafts.num_drafted == 0
    if model is not echo_sum:
        assert with_drafts.engine.drafts.num_accepted > 0
        assert len(with_drafts.runner.passes) < len(without.runner.passes)


def test_a_copied_text_takes_a_fraction_of_the_passes() -> None:
    with_drafts = ran(FakeRunner(copying()), (DOCUMENT, greedy(80)))
    without = ran(FakeRunner(copying()), (DOCUMENT, greedy(80)), max_draft_tokens=0)
    assert with_drafts.answers == without.answers
    assert len(without.runner.passes) == 3 + 79
    assert len(with_drafts.runner.passes) < 20
    # A token for each pass that decodes, and those that were accepted beside them.
    num_decoding = len(with_drafts.runner.passes) - 3
    assert with_drafts.engine.drafts.num_accepted == 79 - num_decoding
    assert with_drafts.engine.drafts.num_drafted >= with_drafts.engine.drafts.num_accepted


def test_where_it_does_not_pay_hardly_anything_is_drafted() -> None:
    """This "model" repeats tokens now and then, by chance, and never what followed them."""
    lookup = ran(FakeRunner(echo_sum), ((1, 2, 3), greedy(400)))
    assert lookup.engine.drafts.num_drafted < 0.15 * 400
    assert len(lookup.runner.passes) >= 390


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalties", [False, True])
def test_sampled_answers_are_the_same_with_and_without(seed: int, penalties: bool) -> None:
    penalised = {"frequency_penalty": 0.1, "repetition_penalty": 1.05, "logit_bias": {101: -3.0}}
    params = SamplingParams(
        120,
        temperature=0.9,
        top_p=0.98,
        seed=seed,
        **(penalised if penalties else {}),  # type: ignore[arg-type]
    )
    with_drafts = ran(SoftRunner(copying()), (DOCUMENT, params))
    without = ran(SoftRunner(copying()), (DOCUMENT, params), max_draft_tokens=0)
    assert with_drafts.answers == without.answers
    assert with_drafts.engine.drafts.num_accepted > 20
    assert with_drafts.engine.drafts.num_drafted > with_drafts.engine.drafts.num_accepted


@pytest.mark.parametrize("at", range(1, 40))
def test_a_stop_token_anywhere_in_a_copied_run_ends_the_answer(at: int) -> None:
    stop = DOCUMENT[at]
    lookup = ran(FakeRunner(copying()), (DOCUMENT, greedy(80, stop)))
    assert lookup.answers == [list(DOCUMENT[:at])]
    (outputs,) = lookup.outputs
    assert [o.finish_reason for o in outputs] == [*[None] * (len(outputs) - 1), FinishReason.STOP]
    # Kept for the next turn is what was said, and nothing of what came behind the stop token.
    kept = [*DOCUMENT, *DOCUMENT[:at]]
    assert lookup.kv.rows[0] == kept[: len(lookup.kv.rows[0])]
    assert len(lookup.kv.rows[0]) >= len(kept) - 1


@pytest.mark.parametrize("max_tokens", range(1, 30))
def test_an_answer_is_as_long_as_asked_for_and_no_more_is_computed(max_tokens: int) -> None:
    lookup = ran(FakeRunner(copying()), (DOCUMENT, greedy(max_tokens)))
    assert lookup.answers == [[*DOCUMENT, *DOCUMENT][:max_tokens]]
    assert lookup.outputs[0][-1].finish_reason is FinishReason.LENGTH
    ends = [chunk.start + len(chunk.token_ids) for chunk in lookup.chunks]
    assert max(ends) < len(DOCUMENT) + max_tokens


def test_the_context_window_is_never_passed() -> None:
    runner = FakeRunner(copying(), max_model_len=len(DOCUMENT) + 33)
    lookup = ran(runner, (DOCUMENT, greedy(33)))
    assert lookup.answers == [list(DOCUMENT[:33])]
    assert lookup.engine.drafts.num_accepted > 10


def test_no_room_for_drafts_is_no_drafts_and_nobody_makes_way() -> None:
    kv = OneBlockShort(4, 512)
    lookup = ran(FakeRunner(copying()), (DOCUMENT, greedy(30)), (DOCUMENT, greedy(30)), kv=kv)
    assert lookup.answers == [list(DOCUMENT[:30])] * 2
    assert lookup.engine.drafts.num_drafted == 0
    # Nothing was computed twice, as it would be after a preemption.
    assert sum(len(chunk.token_ids) for chunk in lookup.chunks) == 2 * (len(DOCUMENT) + 29)


@pytest.mark.parametrize("mixes_phases", [False, True])
def test_one_that_copies_and_one_that_does_not_share_a_step(mixes_phases: bool) -> None:
    other = (7, *DOCUMENT[1:])
    runner = FakeRunner(copying_from(5), max_slots=2, mixes_phases=mixes_phases)
    lookup = ran(runner, (DOCUMENT, greedy(60)), (other, greedy(60)))
    assert lookup.answers[0] == [*DOCUMENT, *DOCUMENT][:60]
    assert lookup.answers[1] == [150 + i % 140 for i in range(len(other), len(other) + 60)]
    lengths = {tuple(sorted(len(c.token_ids) for c in chunks)) for chunks in runner.passes}
    assert (1, 8) in lengths


def test_preempted_in_the_middle_of_a_copy_the_answer_is_whole() -> None:
    async def take_room_back(backend: Backend, generations: list[Generation]) -> None:
        assert isinstance(backend.kv, FakeKVCache) and isinstance(backend.runner, FakeRunner)
        for _ in backend.runner.hold_at:
            await until(backend.runner.held.is_set)
            backend.kv.refuse_reserve = set(backend.kv.used)
            backend.runner.release()
            while backend.kv.used:
                await asyncio.sleep(0.001)
            backend.kv.refuse_reserve = set()

    runner = FakeRunner(copying(change_every=9), max_slots=2, step_s=0.003)
    runner.hold_at = {8, 16, 24}
    requests = [(DOCUMENT, greedy(300)), (DOCUMENT[:20] * 2 + (1, 2), greedy(300))]
    lookup = ran(runner, *requests, meanwhile=take_room_back)
    without = ran(FakeRunner(copying(change_every=9)), *requests, max_draft_tokens=0)
    assert lookup.answers == without.answers
    assert lookup.engine.drafts.num_accepted > 50


def test_an_abort_leaves_only_what_was_accepted() -> None:
    async def abort(backend: Backend, generations: list[Generation]) -> None:
        await until(runner.held.is_set)
        generations[0].abort()
        runner.release()

    runner = FakeRunner(copying(change_every=7))
    lookup = ran(runner, (DOCUMENT, greedy(400)))
    runner = FakeRunner(copying(change_every=7))
    runner.hold_at = {12}
    aborted = ran(runner, (DOCUMENT, greedy(400)), meanwhile=abort)
    (answer,) = aborted.answers
    assert 0 < len(answer) < 400
    assert answer == lookup.answers[0][: len(answer)]
    row = aborted.kv.rows[0]
    assert row == [*DOCUMENT, *lookup.answers[0]][: len(row)]


def test_the_next_turn_begins_from_what_was_accepted() -> None:
    """Rejected drafts were computed last; nothing of them may be left under the next answer."""

    async def test() -> None:
        runner = FakeRunner(copying(change_every=6))
        engine = Engine(fake_backend(runner), prefill_chunk=16, max_waiting=8, max_draft_tokens=7)
        engine.start()
        prompt = list(DOCUMENT)
        for turn in range(4):
            outputs = await _all(engine.submit(tuple(prompt), greedy(25), timeout_s=60))
            answer = [i for o in outputs for i in o.token_ids]
            expected = list(prompt)
            for _ in range(25):
                expected.append(runner.next_token(expected))
            assert [*prompt, *answer] == expected
            assert outputs[0].num_cached_tokens == (len(prompt) - 4 if turn else 0)
            prompt = [*expected, 70 + turn, 71, 72]
        await engine.close()

    asyncio.run(test())


def test_counts_are_kept_per_sequence_and_in_all() -> None:
    lookup = ran(FakeRunner(copying()), (DOCUMENT, greedy(50)), (DOCUMENT[::-1], greedy(50)))
    drafted = sum(c.num_logits - 1 for c in lookup.chunks if c.num_logits)
    assert lookup.engine.drafts.num_drafted == drafted
    assert 0 < lookup.engine.drafts.num_accepted <= drafted
