"""Timing a backend through the KV seam; the fake runner objects to KV that is not there."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.backends.base import Backend
from appliance.errors import BackendError
from appliance.tune.contestant import NUM_DECODE_STEPS, PASS_SIZES, BackendContestant
from appliance.tune.judge import PROMPT_TOKENS
from tests.fakes import FakeKVCache, FakeRunner, echo_sum, fake_backend


def contestant(**limits: int) -> tuple[BackendContestant, FakeRunner, Backend]:
    runner = FakeRunner(**limits)  # type: ignore[arg-type]
    backend = fake_backend(runner)
    return BackendContestant(backend), runner, backend


def sizes(runner: FakeRunner) -> list[int]:
    return [len(chunk.token_ids) for (chunk,) in runner.passes]


def test_a_turn_is_a_prompt_and_decode_steps() -> None:
    timed, runner, backend = contestant()
    timed.time_turn()
    assert sizes(runner) == [PROMPT_TOKENS, *[1] * NUM_DECODE_STEPS]
    assert [chunk.num_logits for (chunk,) in runner.passes] == [1] * (1 + NUM_DECODE_STEPS)
    assert backend.kv.stats().num_slots_used == backend.kv.stats().num_tokens == 0


def test_passes_come_in_pairs_and_with_logits_everywhere() -> None:
    timed, runner, backend = contestant()
    times = timed.time_passes()
    pairs = [size for size in PASS_SIZES for _ in range(2)]
    assert sizes(runner) == [PROMPT_TOKENS, *pairs]
    chunks = [chunk for (chunk,) in runner.passes]
    assert [chunk.start for chunk in chunks] == list(np.cumsum([0, *sizes(runner)[:-1]]))
    assert [chunk.num_logits for chunk in chunks] == [1, *pairs]
    assert set(times.changed) == set(times.steady) == set(PASS_SIZES)
    assert backend.kv.stats().num_slots_used == 0


def test_milliseconds_are_measured() -> None:
    timed = BackendContestant(fake_backend(FakeRunner(step_s=0.004)))
    turn, passes = timed.time_turn(), timed.time_passes()
    figures = [turn.decode, turn.prefill, *passes.changed.values(), *passes.steady.values()]
    assert all(4 <= one < 100 for one in figures)


def test_no_prompt_is_known_from_the_one_before() -> None:
    timed, runner, backend = contestant()
    for _ in range(3):
        timed.time_turn()
    prompts = [chunk.token_ids for (chunk,) in runner.passes if len(chunk.token_ids) == 128]
    assert len({prompt[0] for prompt in prompts}) == len(prompts) == 3
    assert backend.kv.stats().num_hit_tokens == 0


def test_a_prompt_in_chunks() -> None:
    timed, runner, _ = contestant()
    assert timed.time_prefill(256, 100) > 0
    assert sizes(runner) == [100, 100, 56]
    assert [chunk.num_logits for (chunk,) in runner.passes] == [0, 0, 1]


def test_the_golden_answer_is_computed_token_by_token() -> None:
    timed, runner, backend = contestant()
    prompt, answer = (5, 6, 7), (100, 101, 102)
    logits = timed.answer_logits(prompt, answer)
    assert logits.shape == (3, 300)
    expected = [echo_sum(prompt + answer[:n]) for n in range(3)]
    assert list(logits.argmax(axis=1)) == expected
    assert sizes(runner) == [3, 1, 1]
    assert backend.kv.stats().num_slots_used == 0


def test_no_room_is_an_error_that_gives_the_slot_back() -> None:
    timed, runner, _ = contestant(max_model_len=100)
    with pytest.raises(BackendError, match="no room for 128 tokens"):
        timed.time_turn()
    kv = FakeKVCache(1, 512)
    kv.refuse_reserve = {0}
    with pytest.raises(BackendError, match="no room for 128 tokens more"):
        BackendContestant(Backend(kv, runner, "")).time_turn()
    assert kv.stats().num_slots_used == 0


def test_closing_closes_the_runner() -> None:
    timed, runner, _ = contestant()
    timed.close()
    assert runner.closed
