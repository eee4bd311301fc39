"""The bounded queue's door: how many come in, and when the others are told to come back."""

from __future__ import annotations

import pytest

from appliance.engine.admission import Admission
from appliance.engine.generation import Generation
from appliance.engine.sequence import FinishReason, StepOutput
from appliance.errors import NotReadyError, QueueFullError


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """An admission, its clock, and answers that are moved by hand."""

    def __init__(self, clock: Clock, max_slots: int = 2, max_waiting: int = 1) -> None:
        self.clock = clock
        self.admission = Admission(max_slots, max_waiting, clock)

    def enter(self, max_tokens: int = 1000) -> Generation:
        self.admission.check()
        generation = Generation(lambda reason: None, max_tokens)
        self.admission.enter(generation)
        return generation

    def deliver(self, *generations: Generation, reason: FinishReason | None = None) -> None:
        outputs = [(g, StepOutput((1,), 0, reason)) for g in generations]
        for generation, output in outputs:
            generation.deliver(output)
        self.admission.delivered(outputs)

    def answer(self, length: int, step_s: float = 0.1) -> None:
        """One whole answer, a token every `step_s`."""
        generation = self.enter()
        for i in range(1, length + 1):
            self.clock.now += step_s
            self.deliver(generation, reason=FinishReason.STOP if i == length else None)

    def refused(self) -> int:
        with pytest.raises(QueueFullError) as caught:
            self.admission.check()
        return caught.value.retry_after_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_as_many_as_may_run_and_wait(clock: Clock) -> None:
    bench = Bench(clock, max_slots=2, max_waiting=1)
    first, _, _ = bench.enter(), bench.enter(), bench.enter()
    assert bench.admission.max_open == len(bench.admission.open) == 3
    with pytest.raises(QueueFullError, match="3 requests are waiting or running"):
        bench.admission.check()
    bench.deliver(first, reason=FinishReason.LENGTH)
    bench.enter()
    assert len(bench.admission.open) == 3


def test_before_anything_is_known_it_is_two_seconds(clock: Clock) -> None:
    bench = Bench(clock, max_slots=1, max_waiting=0)
    bench.enter()
    assert bench.refused() == 2


def test_the_first_one_comes_back_when_a_place_is_free(clock: Clock) -> None:
    bench = Bench(clock, max_slots=1, max_waiting=0)
    bench.answer(100)
    running = bench.enter()
    for _ in range(30):
        clock.now += 0.1
        bench.deliver(running)
    # 70 tokens more, ten of them a second.
    assert bench.refused() == pytest.approx(7, abs=1)


def test_those_that_wait_do_not_end_before_those_that_run(clock: Clock) -> None:
    bench = Bench(clock, max_slots=1, max_waiting=1)
    bench.answer(20)
    running, waiting = bench.enter(max_tokens=300), bench.enter(max_tokens=300)
    for _ in range(50):
        clock.now += 0.1
        bench.deliver(running)
    assert waiting.num_output_tokens == 0
    # Longer than any before it, so it may get all its 300 tokens.
    assert bench.refused() == pytest.approx(25, abs=1)


def test_each_further_one_comes_back_one_place_later(clock: Clock) -> None:
    bench = Bench(clock, max_slots=1, max_waiting=0)
    bench.answer(50)
    bench.enter()
    told = [bench.refused() for _ in range(4)]
    assert told == [pytest.approx(5 * n, abs=1) for n in (1, 2, 3, 4)]
    clock.now += 10
    assert bench.refused() == pytest.approx(15, abs=2), "two of them had their turn meanwhile"


def test_it_stays_between_a_second_and_a_minute(clock: Clock) -> None:
    fast = Bench(clock, max_slots=1, max_waiting=0)
    fast.answer(2, step_s=0.001)
    fast.enter()
    assert fast.refused() == 1
    slow = Bench(clock, max_slots=1, max_waiting=0)
    slow.answer(100, step_s=2.0)
    slow.enter()
    assert {slow.refused() for _ in range(50)} == {60}
    clock.now += 55
    assert slow.refused() <= 60


def test_a_closed_door_names_its_time(clock: Clock) -> None:
    bench = Bench(clock)
    running = bench.enter()
    bench.admission.close(31)
    with pytest.raises(NotReadyError) as caught:
        bench.admission.check()
    assert caught.value.retry_after_s == 31
    bench.deliver(running, reason=FinishReason.STOP)
    assert not bench.admission.open
