"""The life of one sequence: what is pending, what ends it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import FinishReason, Sequence, SequenceStatus, StepOutput


def sequence(
    prompt_ids: tuple[int, ...] = (10, 11, 12),
    *,
    max_tokens: int = 3,
    stop_token_ids: frozenset[int] = frozenset(),
) -> Sequence:
    return Sequence(
        prompt_ids,
        SamplingParams(max_tokens, stop_token_ids=stop_token_ids),
        scratch=np.empty(64, dtype=np.float32),
        timeout_s=9.0,
        sink=lambda output: None,
    )


def test_a_new_sequence_waits_with_its_whole_prompt_pending() -> None:
    new = sequence()
    assert new.status is SequenceStatus.WAITING
    assert (new.num_output_tokens, new.num_pending_tokens, new.num_prompt_tokens) == (0, 3, 3)
    assert new.prefilling
    assert new.slot is None


def test_a_prompt_is_prefilled_until_one_token_is_left() -> None:
    one = sequence()
    one.num_computed_tokens = 1
    assert one.prefilling
    one.num_computed_tokens = 2
    assert not one.prefilling


def test_max_tokens_ends_the_answer_with_the_last_token_in_it() -> None:
    one = sequence(max_tokens=2)
    assert one.append(20) is None
    assert one.append(21) is FinishReason.LENGTH
    assert one.token_ids == [10, 11, 12, 20, 21]
    assert one.num_output_tokens == 2


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it() -> None:
    one = sequence(stop_token_ids=frozenset({2, 3}))
    assert one.append(20) is None
    assert one.append(3) is FinishReason.STOP
    assert one.token_ids == [10, 11, 12, 20]


def test_a_stop_token_where_the_answer_would_be_full_is_a_stop() -> None:
    assert sequence(max_tokens=1, stop_token_ids=frozenset({2})).append(2) is FinishReason.STOP


def test_a_stop_token_in_the_prompt_ends_nothing() -> None:
    assert sequence((2, 2), stop_token_ids=frozenset({2})).append(5) is None


def test_the_deadline_counts_from_the_beginning() -> None:
    before = time.monotonic()
    assert before + 9 <= sequence().deadline <= time.monotonic() + 9


def test_a_prompt_has_at_least_one_token() -> None:
    with pytest.raises(AssertionError):
        sequence(())


def test_an_output_is_a_value() -> None:
    assert StepOutput((1, 2), 0) == StepOutput((1, 2), 0, None, None)
