"""So many requests in a minute, and when the next one may come."""

from __future__ import annotations

import pytest

from appliance.access.rate_limit import RateLimit
from appliance.errors import RateLimitError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(limit: RateLimit, name: str, times: int) -> int:
    """How many of `times` requests are let in."""
    count = 0
    for _ in range(times):
        try:
            limit.take(name)
        except RateLimitError:
            continue
        count += 1
    return count


def test_all_at_once_then_as_time_passes() -> None:
    clock = Clock()
    limit = RateLimit(30, clock)
    assert taken(limit, "ann", 40) == 30
    clock.now += 1.9
    assert taken(limit, "ann", 5) == 0
    clock.now += 0.2
    assert taken(limit, "ann", 5) == 1
    clock.now += 3600
    assert taken(limit, "ann", 100) == 30


def test_nobody_takes_anothers() -> None:
    limit = RateLimit(2, Clock())
    assert taken(limit, "ann", 5) == 2
    assert taken(limit, "bob", 5) == 2


@pytest.mark.parametrize(("per_minute", "retry_after_s"), [(1, 60), (7, 9), (60, 1), (600, 1)])
def test_it_is_told_when_to_come_again_and_then_let_in(per_minute: int, retry_after_s: int) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    taken(limit, "ann", per_minute)
    with pytest.raises(RateLimitError) as caught:
        limit.take("ann")
    assert caught.value.retry_after_s == retry_after_s
    clock.now += retry_after_s
    limit.take("ann")
