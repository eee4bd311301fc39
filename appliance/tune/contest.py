"""One candidate against the default: how many rounds, and when no more."""

from __future__ import annotations

import time
from collections.abc import Callable

from appliance.tune.candidates import Candidate
from appliance.tune.judge import TurnTimes, judge, median_times
from appliance.tune.outcome import Outcome, measured

MIN_ROUNDS = 3
MAX_ROUNDS = 7

Round = tuple[TurnTimes, TurnTimes]
"""A candidate's times and the default's."""


class TimeBox:
    """Seconds on a clock, up to a deadline on it."""

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._deadline = deadline

    def fits(self, seconds: float) -> bool:
        """Whether something that takes so long would end before the deadline."""
        return self.clock() + seconds <= self._deadline


def compete(candidate: Candidate, play: Callable[[], Round], time_box: TimeBox) -> Outcome | None:
    """Rounds until the candidate is hopeless, has played enough, or time is up.

    None when time was up before `MIN_ROUNDS`: fewer say nothing.
    """
    rounds: list[Round] = []
    longest_s = 0.0
    while len(rounds) < MAX_ROUNDS:
        if not time_box.fits(longest_s):
            break
        if len(rounds) >= MIN_ROUNDS and judge(rounds, candidate.memory_factor).hopeless:
            break
        begun = time_box.clock()
        rounds.append(play())
        longest_s = max(longest_s, time_box.clock() - begun)
    if len(rounds) < MIN_ROUNDS:
        return None
    times = median_times([mine for mine, _ in rounds])
    judgement = judge(rounds, candidate.memory_factor)
    return measured(candidate, len(rounds), times, judgement)
