"""Figures of answers."""

from __future__ import annotations

import pytest

from tests.benchmarks.bars.joining import tail_and_median_of
from tests.benchmarks.harness.answer import Answer, tokens_per_s, tokens_per_s_together


def answer(*times_ms: float, start_ms: float = 0.0, num_tokens: int | None = None) -> Answer:
    count = len(times_ms) if num_tokens is None else num_tokens
    return Answer(start_ms, times_ms, tuple(range(len(times_ms))), count, None)


def test_times_of_one_answer() -> None:
    one = answer(150, 160, 180, start_ms=100)
    assert one.ttft_ms == 50
    assert one.per_token_ms == 15
    assert one.gaps_ms == [10, 20]


def test_arrivals_that_carry_several_tokens_count_as_tokens() -> None:
    assert answer(100, 160, num_tokens=4).per_token_ms == 20


def test_an_answer_without_a_token_is_refused() -> None:
    data = {"start_ms": 0, "times_ms": [], "token_ids": [], "num_tokens": 0}
    with pytest.raises(ValueError, match="without a token"):
        Answer.from_json({**data, "num_cached_tokens": None})


def test_the_rate_of_all_counts_prefill_and_tail() -> None:
    answers = [answer(100, 200, start_ms=50), answer(300, 400, 550, start_ms=60)]
    assert tokens_per_s(answers) == pytest.approx(5 / 500 * 1000)


def test_the_rate_together_counts_only_while_all_decode() -> None:
    early = answer(0, 10, 20, 30, 40, 50)
    late = answer(20, 30, 40, 60, 80)
    # Between 20 and 50 ms: 30, 40, 50 of the one, 30, 40 of the other.
    assert tokens_per_s_together([early, late]) == pytest.approx(5 / 30 * 1000)


def test_answers_one_after_the_other_are_never_together() -> None:
    first, second = answer(10, 20, 30), answer(40, 50, 60)
    assert tokens_per_s_together([first, second]) == tokens_per_s([first, second])


def test_the_tail_is_taken_where_others_join() -> None:
    running = answer(0, 20, 40, 100, 110, 120, 180, 190, 1000)
    joiners = [answer(130, start_ms=105), answer(195, start_ms=150)]
    # Gaps that end from 105 to 195 ms: 10, 10, 60, 10; those that end before: 20, 20, 60.
    p99, median = tail_and_median_of([running], joiners)
    assert median == 20
    assert p99 == pytest.approx(10 + 0.97 * 50)
