"""How fast answers come and how long they get, and what follows for the next free place."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from appliance.engine.pace import Pace


@dataclass
class Answer:
    num_output_tokens: int
    max_tokens: int


def steady(*, step_s: float = 0.1, tokens: int = 4, steps: int = 200, start: float = 0.0) -> Pace:
    """A pace that has seen `tokens` come every `step_s` seconds."""
    pace = Pace()
    pace.resumed(start)
    for i in range(1, steps + 1):
        pace.delivered(start + i * step_s, tokens)
    return pace


def test_nothing_is_known_at_first() -> None:
    pace = Pace()
    assert pace.seconds_per_place() is None
    assert pace.seconds_to_place([Answer(0, 10)]) is None
    pace.resumed(0.0)
    pace.delivered(1.0, 4)
    assert pace.seconds_per_place() is None, "no answer has ended"
    assert pace.seconds_to_place([]) is None


def test_a_place_comes_free_whenever_an_answer_is_through() -> None:
    pace = steady(step_s=0.1, tokens=4)  # 40 tokens/s
    for length in (100, 300):
        pace.finished(length)
    assert pace.seconds_per_place() == pytest.approx(200 / 40, rel=0.01)


def test_the_answer_that_has_come_furthest_ends_first() -> None:
    pace = steady(step_s=0.1, tokens=4)
    pace.finished(100)
    running = [Answer(20, 500), Answer(80, 500), Answer(50, 500), Answer(0, 500)]
    # 20 tokens more of the second, while the three others get as many.
    assert pace.seconds_to_place(running) == pytest.approx(20 * 4 / 40, rel=0.01)


def test_an_answer_longer_than_all_before_may_go_on_to_its_end() -> None:
    pace = steady(step_s=0.1, tokens=1)
    pace.finished(10)
    assert pace.seconds_to_place([Answer(50, 500)]) == pytest.approx(45.0, rel=0.01)
    assert pace.seconds_to_place([Answer(499, 500)]) == pytest.approx(0.1, rel=0.01)


def test_no_answer_gets_more_than_it_may() -> None:
    pace = steady(step_s=0.1, tokens=1)
    pace.finished(1000)
    assert pace.seconds_to_place([Answer(0, 20)]) == pytest.approx(2.0, rel=0.01)


def test_only_recent_lengths_count() -> None:
    pace = steady(step_s=0.1, tokens=1)
    for length in [1000] * 30 + [10] * 16:
        pace.finished(length)
    assert pace.seconds_per_place() == pytest.approx(1.0, rel=0.01)


def test_only_recent_speed_counts() -> None:
    pace = steady(step_s=0.1, tokens=1)
    pace.finished(10)
    for i in range(1, 41):
        pace.delivered(20.0 + i, 1)  # ten times slower, for 40 s
    assert pace.seconds_per_place() == pytest.approx(10.0, rel=0.25)


def test_idle_time_says_nothing() -> None:
    pace = steady(step_s=0.1, tokens=4)
    pace.finished(40)
    pace.resumed(1000.0)
    pace.delivered(1000.1, 4)
    assert pace.seconds_per_place() == pytest.approx(1.0, rel=0.01)


def test_answers_without_a_token_count_as_one() -> None:
    pace = steady(step_s=0.1, tokens=1)
    pace.finished(0)
    assert pace.seconds_per_place() == pytest.approx(0.1, rel=0.01)
