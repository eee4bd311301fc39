"""The engine with its real thread, on the fakes: what readers see, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from appliance.engine.engine import Engine
from appliance.engine.sequence import FinishReason
from appliance.errors import (
    DeadlineExceededError,
    EngineDeadError,
    NotReadyError,
    QueueFullError,
)
from tests.appliance.engine.engine_harness import (
    Harness,
    answer_of,
    collect,
    expected,
    run,
    running,
    until,
)
from tests.fakes import FakeRunner, fake_backend


def test_the_answer_is_the_model_s() -> None:
    async def test() -> None:
        async with running() as harness:
            outputs = await collect(harness.submit(1, 2, 3, max_tokens=5))
        assert [id_ for output in outputs for id_ in output.token_ids] == expected((1, 2, 3), 5)
        assert [output.finish_reason for output in outputs] == [*[None] * 4, FinishReason.LENGTH]
        assert all(len(output.token_ids) == 1 for output in outputs)

    run(test())


def test_several_at_once_do_not_disturb_each_other() -> None:
    async def test() -> None:
        runner = FakeRunner(max_slots=3)
        prompts = [tuple(range(i, i + 3 + i)) for i in range(10)]
        async with running(runner, prefill_chunk=4, max_waiting=10) as harness:
            generations = [harness.submit(*p, max_tokens=20 + i) for i, p in enumerate(prompts)]
            answers = await asyncio.gather(*map(answer_of, generations))
        assert answers == [expected(p, 20 + i) for i, p in enumerate(prompts)]
        assert max(len(chunks) for chunks in runner.passes) == 3

    run(test())


@pytest.mark.parametrize("mixes_phases", [False, True])
def test_sequences_that_come_and_go_all_end_right(mixes_phases: bool) -> None:
    async def test() -> None:
        runner = FakeRunner(max_slots=3, mixes_phases=mixes_phases)

        async def one(harness: Harness, i: int) -> None:
            await asyncio.sleep(i % 7 * 0.002)
            prompt_ids = (5, 6, 7, *range(i % 3), i, i + 1)
            generation = harness.submit(*prompt_ids, max_tokens=1 + i % 9)
            if i % 4 == 3:
                await asyncio.sleep(0.001 * (i % 5))
                generation.abort()
                await collect(generation)
            else:
                assert await answer_of(generation) == expected(prompt_ids, 1 + i % 9)

        async with running(runner, prefill_chunk=2, max_waiting=60) as harness:
            await asyncio.gather(*(one(harness, i) for i in range(60)))
            await harness.at_rest()

    run(test())


def test_a_stop_token_ends_the_answer_without_being_in_it() -> None:
    async def test() -> None:
        ids = expected((1, 2, 3), 6)
        assert ids.index(ids[3]) == 3
        async with running() as harness:
            outputs = await collect(harness.submit(1, 2, 3, stop_token_ids=frozenset({ids[3]})))
        assert [id_ for output in outputs for id_ in output.token_ids] == ids[:3]
        assert (outputs[-1].token_ids, outputs[-1].finish_reason) == ((), FinishReason.STOP)

    run(test())


def test_a_conversation_that_goes_on_reports_what_was_cached() -> None:
    async def test() -> None:
        async with running() as harness:
            first = await answer_of(harness.submit(1, 2, 3, max_tokens=4))
            outputs = await collect(harness.submit(1, 2, 3, *first, 9, max_tokens=4))
            assert {output.num_cached_tokens for output in outputs} == {3 + 4 - 1}
            answer = [id_ for output in outputs for id_ in output.token_ids]
            assert answer == expected((1, 2, 3, *first, 9), 4)
            other = await collect(harness.submit(7, 2, 3, max_tokens=1))
            assert other[0].num_cached_tokens == 0
            assert harness.engine.kv_stats().num_hit_tokens == 6

    run(test())


def held_in_its_fourth_pass() -> FakeRunner:
    runner = FakeRunner(max_slots=1)
    runner.hold_at = {3}
    return runner


def test_an_abort_while_running_takes_at_most_one_step() -> None:
    async def test() -> None:
        async with running(held_in_its_fourth_pass()) as harness:
            generation = harness.submit(1, 2, 3, max_tokens=400)
            await until(harness.runner.held.is_set)
            generation.abort()
            harness.runner.release()
            await harness.at_rest()
            assert len(harness.runner.passes) == 4  # the one that was held
            outputs = await collect(generation)
            assert outputs[-1].finish_reason is FinishReason.ABORT
            answer = [id_ for output in outputs for id_ in output.token_ids]
            assert answer == expected((1, 2, 3), len(answer))

    run(test())


def test_time_that_runs_out_ends_it_with_the_step_under_way() -> None:
    async def test() -> None:
        async with running(held_in_its_fourth_pass()) as harness:
            generation = harness.submit(1, 2, 3, max_tokens=400, timeout_s=1)
            submitted = time.monotonic()
            await until(harness.runner.held.is_set)
            await until(lambda: time.monotonic() > submitted + 1)
            harness.runner.release()
            await harness.at_rest()
            assert len(harness.runner.passes) == 4
            with pytest.raises(DeadlineExceededError):
                await collect(generation)

    run(test())


def test_closing_ends_it_with_the_step_under_way() -> None:
    async def test() -> None:
        async with running(held_in_its_fourth_pass()) as harness:
            generation = harness.submit(1, 2, 3, max_tokens=400)
            await until(harness.runner.held.is_set)
            closing = asyncio.create_task(harness.engine.close())
            await asyncio.sleep(0)  # it has told the engine thread, and waits for it
            harness.runner.release()
            await closing
            assert len(harness.runner.passes) == 4
            with pytest.raises(NotReadyError):
                await collect(generation)

    run(test())


def test_an_abort_keeps_the_prefix_for_the_next_one() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1)) as harness:
            generation = harness.submit(1, 2, 3, max_tokens=400)
            await harness.passes(4)
            generation.abort()
            outputs = await collect(harness.submit(1, 2, 3, max_tokens=2))
        assert outputs[0].num_cached_tokens == 2
        assert [id_ for output in outputs for id_ in output.token_ids] == expected((1, 2, 3), 2)

    run(test())


def test_an_abort_while_waiting_never_runs() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1)) as harness:
            harness.runner.gate.clear()
            first, second = harness.submit(1, 2, max_tokens=2), harness.submit(8, 9)
            second.abort()
            harness.runner.gate.set()
            assert (await collect(second))[-1].finish_reason is FinishReason.ABORT
            assert await answer_of(first) == expected((1, 2), 2)
            await harness.at_rest()
            started = {chunk.token_ids[0] for chunks in harness.runner.passes for chunk in chunks}
            assert 8 not in started

    run(test())


def test_abort_may_be_called_at_any_time_and_any_number_of_times() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1)) as harness:
            generation = harness.submit(1, 2, max_tokens=2)
            assert await answer_of(generation) == expected((1, 2), 2)
            generation.abort()
            generation.abort()
            twice = harness.submit(1, 2, max_tokens=300)
            twice.abort()
            twice.abort()
            # The slot belongs to this one by then, and must not be freed under it.
            assert await answer_of(harness.submit(4, 5)) == expected((4, 5), 8)

    run(test())


def test_a_reader_that_never_read_can_be_aborted() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1)) as harness:
            harness.submit(1, 2, max_tokens=300).abort()
            await harness.at_rest()

    run(test())


def test_more_than_may_wait_are_refused_until_one_is_done() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=2), max_waiting=3) as harness:
            harness.runner.gate.clear()
            accepted = [harness.submit(i, max_tokens=1) for i in range(5)]
            assert harness.engine.num_open == 5
            with pytest.raises(QueueFullError, match="5 requests") as caught:
                harness.submit(9)
            assert caught.value.retry_after_s > 0
            harness.runner.gate.set()
            for i, generation in enumerate(accepted):
                assert await answer_of(generation) == expected((i,), 1)
            assert await answer_of(harness.submit(9, max_tokens=1)) == expected((9,), 1)

    run(test())


def test_time_runs_out_while_running_and_while_waiting() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1, step_s=0.005)) as harness:
            slow = harness.submit(1, 2, max_tokens=400, timeout_s=0.1)
            waiting = harness.submit(3, 4, max_tokens=400, timeout_s=0.05)
            patient = harness.submit(5, 6, max_tokens=2)
            for generation, limit in ((waiting, "0.05 s"), (slow, "0.1 s")):
                with pytest.raises(DeadlineExceededError, match=limit):
                    await collect(generation)
            assert await answer_of(patient) == expected((5, 6), 2)

    run(test())


def test_what_was_answered_before_time_ran_out_is_delivered() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1, step_s=0.002)) as harness:
            answer: list[int] = []
            with pytest.raises(DeadlineExceededError):
                async for output in harness.submit(1, max_tokens=400, timeout_s=0.2).outputs():
                    answer += output.token_ids
            assert answer == expected((1,), len(answer))
            assert answer

    run(test())


def test_draining_refuses_new_ones_and_finishes_the_old() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1)) as harness:
            harness.runner.gate.clear()
            generations = [harness.submit(i, max_tokens=3) for i in range(3)]
            harness.engine.stop_accepting()
            with pytest.raises(NotReadyError) as caught:
                harness.submit(9)
            assert caught.value.retry_after_s > 0
            harness.runner.gate.set()
            for i, generation in enumerate(generations):
                assert await answer_of(generation) == expected((i,), 3)

    run(test())


def test_close_tells_every_reader_and_gives_the_backend_back() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=1)) as harness:
            generations = [harness.submit(i, max_tokens=400) for i in range(3)]
            await harness.passes(2)
            readers = [asyncio.create_task(collect(generation)) for generation in generations]
            await harness.engine.close()
            assert harness.runner.closed
            for reader in readers:
                with pytest.raises(NotReadyError):
                    await reader
            with pytest.raises(NotReadyError):
                harness.submit(9)
            await harness.engine.close()

    run(test())


def test_close_before_the_first_step_and_without_a_start() -> None:
    async def test() -> None:
        async with running():
            pass
        backend = fake_backend()
        await Engine(backend, prefill_chunk=16, max_waiting=1).close()
        assert isinstance(backend.runner, FakeRunner) and backend.runner.closed

    run(test())


def test_a_failing_pass_ends_the_engine_and_tells_everybody_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        runner = FakeRunner(max_slots=2, fail_after=3)
        deaths: list[EngineDeadError] = []
        async with running(runner) as harness:
            harness.engine.on_death = deaths.append
            runner.gate.clear()
            generations = [harness.submit(i, 1, max_tokens=50) for i in range(4)]
            runner.gate.set()
            for generation in generations:
                with pytest.raises(EngineDeadError, match="told to"):
                    await collect(generation)
            assert len(deaths) == 1
            assert harness.engine.death is deaths[0]
            assert harness.engine.num_open == 0
            for _ in range(2):
                with pytest.raises(EngineDeadError, match="restarted"):
                    harness.submit(1)
            for generation in generations:
                generation.abort()
        assert len(deaths) == 1
        # Broken: nothing more may be asked of it.
        assert not runner.closed
        assert len(runner.passes) == 4

    run(test())
    assert "the engine thread died" in caplog.text
    assert "told to" in caplog.text


def test_books_that_do_not_add_up_end_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running() as harness:
            await answer_of(harness.submit(1, max_tokens=1))
            await harness.at_rest()
            harness.kv.used.add(77)
            generation = harness.submit(2, max_tokens=1)
            with contextlib.suppress(EngineDeadError):
                await collect(generation)
            await until(lambda: harness.engine.death is not None)
            harness.kv.used.clear()

    run(test())
    assert "AssertionError" in caplog.text


def test_an_engine_that_died_refuses_without_growing(caplog: pytest.LogCaptureFixture) -> None:
    """One exception object, raised again for every request, kept every request's frames."""

    async def test() -> None:
        async with running(FakeRunner(fail_after=0)) as harness:
            with pytest.raises(EngineDeadError):
                await collect(harness.submit(1))
            depths = []
            for _ in range(3):
                with pytest.raises(EngineDeadError) as caught:
                    harness.submit(1)
                depths.append(len(caught.traceback))
            assert len(set(depths)) == 1

    run(test())


def test_nothing_to_do_is_a_moment_for_the_runner() -> None:
    async def test() -> None:
        async with running() as harness:
            await until(lambda: harness.runner.num_idle == 1)
            await answer_of(harness.submit(1, 2, max_tokens=3))
            await until(lambda: harness.runner.num_idle == 2)
            assert len(harness.runner.passes) == 3

    run(test())


def test_the_thread_sleeps_when_there_is_nothing_to_do() -> None:
    async def test() -> None:
        async with running() as harness:
            began = time.monotonic()
            await answer_of(harness.submit(1, 2, max_tokens=3))
            is_idle = harness.runner.num_idle
            # On a busy machine the answer itself may come after that time.
            assert not is_idle or time.monotonic() - began > 0.25, "another request may follow"
            await until(lambda: harness.runner.num_idle == 1)
            await asyncio.sleep(0.5)
            assert (harness.runner.num_idle, len(harness.runner.passes)) == (1, 3)

    run(test())


def test_preempted_sequences_end_right_too() -> None:
    async def test() -> None:
        async with running(FakeRunner(max_slots=2, step_s=0.002)) as harness:
            generations = [harness.submit(i, i + 1, max_tokens=30) for i in (1, 5)]
            await harness.passes(8)
            harness.kv.refuse_reserve = set(harness.kv.used)
            await until(lambda: not harness.kv.used or len(harness.runner.passes) > 60)
            harness.kv.refuse_reserve = set()
            answers = [await answer_of(generation) for generation in generations]
        assert answers == [expected((i, i + 1), 30) for i in (1, 5)]

    run(test())
