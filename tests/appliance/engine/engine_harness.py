"""An engine with its real thread on the fakes, and shorthands for its tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from appliance.backends.base import Backend
from appliance.engine.engine import Engine
from appliance.engine.generation import Generation
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import StepOutput
from tests.fakes import FakeKVCache, FakeRunner, echo_sum, fake_backend

# For what must come; long enough for a machine that is busy with other things.
PATIENCE_S = 20.0


class Harness:
    """An engine on fakes, with shorthands; `running()` is the only way to get one."""

    def __init__(self, backend: Backend, engine: Engine) -> None:
        assert isinstance(backend.runner, FakeRunner) and isinstance(backend.kv, FakeKVCache)
        self.runner, self.kv, self.engine = backend.runner, backend.kv, engine

    def submit(
        self,
        *prompt_ids: int,
        max_tokens: int = 8,
        timeout_s: float = 60.0,
        stop_token_ids: frozenset[int] = frozenset(),
        seed: int | None = None,
    ) -> Generation:
        """Greedy, or sampled with `seed` and a penalty that looks at the answer so far."""
        params = SamplingParams(
            max_tokens,
            temperature=0 if seed is None else 1.2,
            frequency_penalty=0 if seed is None else 0.5,
            seed=seed,
            stop_token_ids=stop_token_ids,
        )
        return self.engine.submit(prompt_ids, params, timeout_s=timeout_s)

    async def passes(self, count: int) -> None:
        """Wait until the runner has made `count` passes."""
        await until(lambda: len(self.runner.passes) >= count)

    async def at_rest(self) -> None:
        """Wait until nothing waits or runs, and the thread waits for the next command."""
        await until(lambda: not self.kv.used and self.engine.num_open == 0)


@contextlib.asynccontextmanager
async def running(
    runner: FakeRunner | None = None,
    *,
    kv: FakeKVCache | None = None,
    prefill_chunk: int = 16,
    prefill_chunk_busy: int | None = None,
    max_waiting: int = 8,
) -> AsyncIterator[Harness]:
    """A started engine; afterwards it is closed and nothing of it may be left."""
    backend = fake_backend(runner)
    if kv is not None:
        backend = replace(backend, kv=kv)
    engine = Engine(
        backend,
        prefill_chunk=prefill_chunk,
        prefill_chunk_busy=prefill_chunk_busy,
        max_waiting=max_waiting,
    )
    engine.start()
    harness = Harness(backend, engine)
    try:
        yield harness
    finally:
        harness.runner.gate.set()
        await engine.close()
    assert engine.num_open == 0
    assert engine.kv_stats().num_slots_used == 0 or engine.death is not None
    harness.kv.check_integrity()


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), PATIENCE_S)


async def collect(generation: Generation) -> list[StepOutput]:
    async def all_outputs() -> list[StepOutput]:
        return [output async for output in generation.outputs()]

    return await asyncio.wait_for(all_outputs(), PATIENCE_S)


async def answer_of(generation: Generation) -> list[int]:
    return [token_id for output in await collect(generation) for token_id in output.token_ids]


def expected(prompt_ids: Sequence[int], count: int) -> list[int]:
    token_ids = list(prompt_ids)
    for _ in range(count):
        token_ids.append(echo_sum(token_ids))
    return token_ids[len(prompt_ids) :]


def run(test: Awaitable[None]) -> None:
    async def awaited() -> None:
        await test

    asyncio.run(awaited())
