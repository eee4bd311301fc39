"""Sides take turns, so that a busy moment of the machine hits them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.benchmarks.harness.fleet import Fleet, UnavailableError
from tests.benchmarks.harness.worker import Worker, WorkerError

T = TypeVar("T")


def take_turns(
    fleet: Fleet,
    names: Sequence[str],
    rounds: int,
    measure: Callable[[Worker, int], T],
    *,
    pause_s: float,
) -> dict[str, list[T]]:
    """Round by round `measure(worker, round)` of every side, one at a time; each round begins with
    another side.

    Before each turn there are `pause_s` seconds, for the threads of the side before to fall asleep.
    Round 0 is a warm-up and not in the result. A side that fails is given up, and the rounds it did
    are not in the result either.
    """
    running = fleet.available(*names)
    values: dict[str, list[T]] = {name: [] for name in running}
    for number in range(rounds + 1):
        first = number % len(running) if running else 0
        for name in running[first:] + running[:first]:
            if name not in values:
                continue
            time.sleep(pause_s)
            try:
                value = measure(fleet.worker(name), number)
            except (WorkerError, UnavailableError) as error:
                if isinstance(error, WorkerError):
                    fleet.give_up(name, str(error))
                del values[name]
                continue
            if number:
                values[name].append(value)
    return values
