"""Several answers to one prompt: the prompt is computed once, and every answer is as if alone."""

from __future__ import annotations

import asyncio

import pytest

from appliance.backends.base import Backend
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.engine.engine import Engine
from appliance.engine.generation import Generation
from appliance.engine.sampling_params import SamplingParams
from tests.fakes import FakeBlockRunner, echo_sum

PROMPT = tuple(range(1, 71))


def backend(*, max_slots: int = 4, mixes_phases: bool = False) -> tuple[Backend, FakeBlockRunner]:
    kv = BlockKVCache(num_blocks=64, max_slots=max_slots, max_model_len=512, bytes_per_block=1)
    runner = FakeBlockRunner(kv, max_slots=max_slots, mixes_phases=mixes_phases)
    return Backend(kv, runner, description="fake"), runner


async def collected(generation: Generation) -> tuple[list[int], int]:
    token_ids: list[int] = []
    async for output in generation.outputs():
        token_ids += output.token_ids
        cached = output.num_cached_tokens
    return token_ids, cached


def answers(
    made: Backend, prompts: list[tuple[int, ...]], max_tokens: int, chunk: int = 16
) -> list[tuple[list[int], int]]:
    """All prompts submitted at once: each answer, and how many tokens it found known."""

    async def run() -> list[tuple[list[int], int]]:
        engine = Engine(made, prefill_chunk=chunk, max_waiting=20)
        engine.start()
        params = SamplingParams(max_tokens, temperature=0)
        generations = [engine.submit(prompt, params, timeout_s=20) for prompt in prompts]
        outcome = await asyncio.gather(*map(collected, generations))
        await engine.close()
        return list(outcome)

    return asyncio.run(run())


def expected(prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    token_ids = list(prompt)
    for _ in range(max_tokens):
        token_ids.append(echo_sum(token_ids))
    return token_ids[len(prompt) :]


@pytest.mark.parametrize("mixes_phases", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 9])
def test_one_prefill_for_all(mixes_phases: bool, max_tokens: int) -> None:
    made, runner = backend(mixes_phases=mixes_phases)
    outcome = answers(made, [PROMPT] * 4, max_tokens)
    assert [token_ids for token_ids, _ in outcome] == [expected(PROMPT, max_tokens)] * 4
    assert [cached for _, cached in outcome] == [0, *[len(PROMPT) - 1] * 3]
    chunks = [chunk for step in runner.passes for chunk in step]
    in_prompt = sum(len(chunk.token_ids) for chunk in chunks if chunk.start < len(PROMPT))
    assert in_prompt == len(PROMPT) + 3


def test_more_answers_than_seats() -> None:
    made, _ = backend(max_slots=2)
    outcome = answers(made, [PROMPT] * 6, 3)
    assert [token_ids for token_ids, _ in outcome] == [expected(PROMPT, 3)] * 6
    assert [cached for _, cached in outcome][1:] == [len(PROMPT) - 1] * 5


def test_others_do_not_wait_for_it() -> None:
    made, runner = backend(mixes_phases=True)
    other = (200, 201)
    outcome = answers(made, [PROMPT, PROMPT, other], 3)
    assert [ids for ids, _ in outcome] == [expected(p, 3) for p in (PROMPT, PROMPT, other)]
    first_of_other = next(
        i for i, step in enumerate(runner.passes) if any(c.token_ids == other for c in step)
    )
    assert first_of_other == 0, "the twin in front of it waits, it does not"


def test_when_the_first_one_leaves_the_next_one_computes_it() -> None:
    made, runner = backend()

    async def run() -> tuple[list[int], int]:
        engine = Engine(made, prefill_chunk=16, max_waiting=20)
        params = SamplingParams(3, temperature=0)
        runner.gate.clear()
        engine.start()
        first, second = (engine.submit(PROMPT, params, timeout_s=20) for _ in range(2))
        first.abort()
        runner.gate.set()
        outcome = await asyncio.wait_for(collected(second), 10)
        await engine.close()
        return outcome

    token_ids, _ = asyncio.run(run())
    assert token_ids == expected(PROMPT, 3)
