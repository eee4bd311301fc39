"""Which sequences compute which tokens: order, turns, preemption. No thread, no engine."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.backends.base import RunnerLimits
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.scheduler import ScheduledChunk, Scheduler
from appliance.engine.sequence import Sequence, SequenceStatus
from tests.fakes import FakeKVCache, FakeRunner, echo_sum


class Bench:
    """A scheduler on the fakes, stepped by hand: what the engine does, without its thread."""

    def __init__(
        self,
        *,
        max_slots: int = 4,
        prefill_chunk: int = 4,
        prefill_chunk_busy: int | None = None,
        mixes_phases: bool = False,
        max_model_len: int = 64,
    ) -> None:
        limits = RunnerLimits(max_slots, max_model_len, 300, mixes_phases)
        self.kv = FakeKVCache(max_slots, max_model_len)
        self.runner = FakeRunner(
            max_slots=max_slots, max_model_len=max_model_len, mixes_phases=mixes_phases
        )
        self.scheduler = Scheduler(
            self.kv, limits, prefill_chunk=prefill_chunk, prefill_chunk_busy=prefill_chunk_busy
        )

    def add(self, *prompt_ids: int, max_tokens: int = 5, timeout_s: float = 60.0) -> Sequence:
        sequence = Sequence(
            prompt_ids,
            SamplingParams(max_tokens, temperature=0),
            scratch=np.empty(300, dtype=np.float32),
            timeout_s=timeout_s,
            sink=lambda output: None,
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[ScheduledChunk]:
        scheduled = self.scheduler.schedule()
        if not scheduled:
            return []
        logits = self.runner.forward([item.chunk for item in scheduled])
        row = 0
        for item in scheduled:
            self.scheduler.computed(item.sequence, len(item.chunk.token_ids))
            if item.chunk.num_logits:
                token_id = item.sequence.sampler.sample(logits[row])
                if item.sequence.append(token_id) is not None:
                    self.scheduler.finish(item.sequence)
            row += item.chunk.num_logits
        assert row == len(logits)
        self.kv.check_integrity()
        return scheduled

    def run(self) -> list[list[ScheduledChunk]]:
        steps = []
        while self.scheduler.has_work:
            steps.append(self.step())
            assert len(steps) < 500, "no end"
        return steps


def answer(prompt_ids: tuple[int, ...], max_tokens: int) -> list[int]:
    token_ids = list(prompt_ids)
    for _ in range(max_tokens):
        token_ids.append(echo_sum(token_ids))
    return token_ids


def chunk_lengths(steps: list[list[ScheduledChunk]], sequence: Sequence) -> list[int]:
    return [
        len(item.chunk.token_ids) for step in steps for item in step if item.sequence is sequence
    ]


def test_first_in_first_out() -> None:
    bench = Bench(max_slots=1)
    sequences = [bench.add(i, i + 1, max_tokens=2) for i in range(5)]
    order = [item.sequence for step in bench.run() for item in step]
    # Each runs from its first to its last step, and the next one after it.
    assert order == [s for s in sequences for _ in range(2)]


def test_all_slots_are_filled_and_no_more() -> None:
    bench = Bench(max_slots=3)
    sequences = [bench.add(i, 1) for i in range(5)]
    bench.step()
    running = [s for s in sequences if s.status is SequenceStatus.RUNNING]
    assert running == sequences[:3]
    assert len({s.slot for s in running}) == 3


def test_a_long_prompt_is_prefilled_in_chunks_and_only_its_end_has_logits() -> None:
    bench = Bench(prefill_chunk=4)
    prompt_ids = tuple(range(11))
    sequence = bench.add(*prompt_ids, max_tokens=1)
    chunks = [item.chunk for step in bench.run() for item in step]
    assert [len(chunk.token_ids) for chunk in chunks] == [4, 4, 3]
    assert [chunk.start for chunk in chunks] == [0, 4, 8]
    assert [chunk.num_logits for chunk in chunks] == [0, 0, 1]
    assert sequence.token_ids == answer(prompt_ids, 1)


@pytest.mark.parametrize("length", range(1, 14))
def test_every_prompt_length_gives_the_right_answer(length: int) -> None:
    bench = Bench(prefill_chunk=4)
    prompt_ids = tuple(range(50, 50 + length))
    sequence = bench.add(*prompt_ids)
    bench.run()
    assert sequence.token_ids == answer(prompt_ids, 5)


def test_prefill_and_decode_take_turns_where_phases_do_not_mix() -> None:
    bench = Bench(prefill_chunk=4)
    first = bench.add(1, 2, max_tokens=12)
    bench.step()
    bench.step()
    long = bench.add(*range(16), max_tokens=1)
    kinds = ["prefill" if step[0].sequence is long else "decode" for step in bench.run()]
    assert kinds[:8] == ["prefill", "decode"] * 4
    assert first.token_ids == answer((1, 2), 12)
    assert long.token_ids == answer(tuple(range(16)), 1)


def test_prompts_that_keep_coming_do_not_starve_a_running_answer() -> None:
    bench = Bench(prefill_chunk=4, max_slots=4)
    first = bench.add(1, 2, max_tokens=10)
    for i in range(30):
        bench.add(*range(i, i + 8), max_tokens=1)
    steps = [bench.step() for _ in range(25)]
    assert first.status is SequenceStatus.FINISHED
    assert chunk_lengths(steps, first) == [2, *[1] * 9]


def test_all_that_decode_share_a_step() -> None:
    bench = Bench(max_slots=3)
    sequences = [bench.add(i, max_tokens=3) for i in range(3)]
    steps = bench.run()
    assert [[item.sequence for item in step] for step in steps] == [sequences] * 3


def test_where_phases_mix_a_prefill_chunk_rides_with_the_decoding_ones() -> None:
    bench = Bench(prefill_chunk=4, mixes_phases=True)
    first, second = bench.add(1, max_tokens=9), bench.add(2, max_tokens=9)
    bench.step()
    long = bench.add(*range(8), max_tokens=2)
    other = bench.add(*range(100, 108), max_tokens=2)
    step = bench.step()
    assert {id(item.sequence) for item in step} == {id(s) for s in (first, second, long)}
    bench.run()
    for sequence, prompt_ids, count in (
        (first, (1,), 9),
        (second, (2,), 9),
        (long, tuple(range(8)), 2),
        (other, tuple(range(100, 108)), 2),
    ):
        assert sequence.token_ids == answer(prompt_ids, count)


def test_while_answers_stream_prompts_get_the_small_budget() -> None:
    bench = Bench(mixes_phases=True, prefill_chunk=12, prefill_chunk_busy=3)
    alone = bench.add(*range(12), max_tokens=20)
    assert [len(item.chunk.token_ids) for item in bench.step()] == [12]
    late = bench.add(*range(100, 109), max_tokens=1)
    steps = bench.run()
    assert chunk_lengths(steps, late) == [3, 3, 3]
    assert set(chunk_lengths(steps, alone)) == {1}


def test_short_prompts_share_a_step_and_do_not_wait_behind_a_long_one() -> None:
    bench = Bench(mixes_phases=True, prefill_chunk=8)
    long = bench.add(*range(60), max_tokens=2)
    bench.step()
    short = [bench.add(100 + i, 50, 51, max_tokens=1) for i in range(2)]
    first, second = bench.step(), bench.step()
    shared = first if len(first) > 1 else second
    assert [item.sequence for item in shared][:2] == short
    assert all(s.status is SequenceStatus.FINISHED for s in short)
    bench.run()
    assert long.token_ids == answer(tuple(range(60)), 2)


@pytest.mark.parametrize("num_steps", range(4))
def test_a_short_prompt_overtakes_a_long_one_where_phases_take_turns(num_steps: int) -> None:
    """Whichever turn it was when it came."""
    bench = Bench(prefill_chunk=4)
    bench.add(1, max_tokens=40)
    bench.step()
    long = bench.add(*range(60), max_tokens=1)
    for _ in range(num_steps):
        bench.step()
    short = bench.add(100, 50, 51, max_tokens=1)
    steps = [bench.step() for _ in range(4)]
    assert short.status is SequenceStatus.FINISHED
    assert chunk_lengths(steps, short) == [3]
    assert len(chunk_lengths(steps, long)) >= 1, "and the long one had a turn, too"
    bench.run()
    assert long.token_ids == answer(tuple(range(60)), 1)


def test_a_long_prompt_goes_on_while_short_ones_keep_coming() -> None:
    bench = Bench(mixes_phases=True, prefill_chunk=4, max_slots=3)
    long = bench.add(*range(40), max_tokens=1)
    for i in range(40):
        bench.add(*range(100 + i, 104 + i), max_tokens=1)
        bench.step()
        if long.status is SequenceStatus.FINISHED:
            break
    assert long.token_ids == answer(tuple(range(40)), 1)


def test_what_the_prefix_cache_holds_is_not_computed_again() -> None:
    bench = Bench(prefill_chunk=16)
    first = bench.add(*range(10), max_tokens=2)
    bench.run()
    again = bench.add(*first.token_ids, 99, max_tokens=1)
    (step,) = bench.run()
    # The answer's last token was never computed; it and the new one are.
    assert again.num_cached_tokens == 11
    assert len(step[0].chunk.token_ids) == 2
    assert again.token_ids == answer((*first.token_ids, 99), 1)


def test_a_repeated_prompt_recomputes_its_last_token() -> None:
    bench = Bench(prefill_chunk=16)
    first = bench.add(*range(10), max_tokens=1)
    bench.run()
    again = bench.add(*range(10), max_tokens=1)
    (step,) = bench.run()
    assert (again.num_cached_tokens, len(step[0].chunk.token_ids)) == (9, 1)
    assert again.token_ids == first.token_ids


def test_preemption_takes_the_youngest_and_loses_no_token() -> None:
    bench = Bench(max_slots=3)
    sequences = [bench.add(i, i + 1, i + 2, max_tokens=12) for i in (10, 20, 30)]
    for _ in range(6):
        bench.step()
    oldest, middle, youngest = sequences
    slot = oldest.slot
    assert slot is not None
    bench.kv.refuse_reserve = {slot}
    said = [list(s.token_ids) for s in (middle, youngest)]
    bench.step()
    # No other could give the oldest its room, so all were preempted; they wait in their order.
    assert list(bench.scheduler.waiting) == sequences
    assert [s.token_ids for s in (middle, youngest)] == said
    assert all(s.slot is None for s in sequences)
    bench.kv.refuse_reserve = set()
    bench.run()
    for sequence, start in zip(sequences, (10, 20, 30), strict=True):
        assert sequence.token_ids == answer((start, start + 1, start + 2), 12)


def test_only_as_many_are_preempted_as_needed() -> None:
    class Pool(FakeKVCache):
        """Slots that share the memory for `size` tokens; what is free keeps none of it."""

        size = 14

        def reserve(self, slot: int, num_tokens: int) -> bool:  # type: ignore[override]
            held = sum(len(self.rows[i]) for i in self.used)
            return held + num_tokens <= self.size

    bench = Bench(max_slots=3)
    bench.scheduler._kv = bench.kv = Pool(3, 64)
    sequences = [bench.add(i, i + 1, max_tokens=7) for i in (10, 20, 30)]
    preempted = set()
    for _ in range(300):
        bench.step()
        preempted |= {
            i
            for i, s in enumerate(sequences)
            if s.status is SequenceStatus.WAITING and s.num_output_tokens
        }
        if not bench.scheduler.has_work:
            break
    assert preempted == {2}
    for sequence, start in zip(sequences, (10, 20, 30), strict=True):
        assert sequence.token_ids == answer((start, start + 1), 7)


def test_preemption_does_not_change_how_much_of_the_prompt_was_cached() -> None:
    """Coming back, a sequence finds its own prompt and answer, which the client did not send."""
    bench = Bench(max_slots=1)
    sequence = bench.add(1, 2, 3, max_tokens=8)
    for _ in range(5):
        bench.step()
    assert sequence.slot is not None
    bench.kv.refuse_reserve = {sequence.slot}
    bench.step()
    bench.kv.refuse_reserve = set()
    bench.run()
    assert sequence.num_cached_tokens == 0
    assert sequence.token_ids == answer((1, 2, 3), 8)


def test_a_preempted_sequence_goes_before_those_that_wait() -> None:
    bench = Bench(max_slots=2)
    first, second = bench.add(1, 2, max_tokens=9), bench.add(3, 4, max_tokens=9)
    waiting = bench.add(5, 6)
    for _ in range(4):
        bench.step()
    assert second.slot is not None
    bench.kv.refuse_reserve = {second.slot}
    bench.step()
    assert list(bench.scheduler.waiting) == [second, waiting]
    assert first.status is SequenceStatus.RUNNING


def test_a_sequence_for_which_there_is_no_seat_waits() -> None:
    bench = Bench(max_slots=1)
    bench.kv.used.add(0)
    sequence = bench.add(1, 2)
    assert bench.step() == []
    assert sequence.status is SequenceStatus.WAITING
    bench.kv.used.clear()
    bench.run()
    assert sequence.token_ids == answer((1, 2), 5)


def test_expired_are_those_whose_time_is_up_waiting_or_running() -> None:
    bench = Bench(max_slots=1)
    running = bench.add(1, 2, timeout_s=10)
    patient = bench.add(1, 2, timeout_s=100)
    waiting = bench.add(1, 2, timeout_s=20)
    bench.step()
    start = running.deadline - 10
    assert bench.scheduler.expired(start + 9) == []
    assert bench.scheduler.expired(start + 11) == [running]
    assert bench.scheduler.expired(start + 50) == [running, waiting]
    assert bench.scheduler.open_sequences() == [running, patient, waiting]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_finish_frees_the_slot_once_whatever_the_sequence_was_doing(steps: int) -> None:
    bench = Bench(max_slots=1, prefill_chunk=2)
    sequence = bench.add(1, 2, 3, 4)
    for _ in range(steps):
        bench.step()
    assert bench.scheduler.finish(sequence)
    assert sequence.status is SequenceStatus.FINISHED
    assert bench.kv.used == set()
    assert not bench.scheduler.has_work
    other = bench.add(7, 8)
    bench.step()
    # A second time must not free the slot under the one that sits there now.
    assert not bench.scheduler.finish(sequence)
    assert bench.kv.used == {other.slot}


def test_finish_keeps_the_prefix_unless_told_otherwise() -> None:
    bench = Bench(max_slots=1, prefill_chunk=8)
    bench.scheduler.finish(_stepped(bench, 1, 2, 3))
    assert bench.kv.rows[0] == [1, 2, 3]
    bench.scheduler.finish(_stepped(bench, 1, 2, 3), keep_prefix=False)
    assert bench.kv.rows[0] == []


def _stepped(bench: Bench, *prompt_ids: int) -> Sequence:
    sequence = bench.add(*prompt_ids)
    bench.step()
    return sequence
