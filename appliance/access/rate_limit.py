"""How often each may come: a bucket of requests per name, filled again as time passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from appliance.errors import RateLimitError


class RateLimit:
    """At most `per_minute` requests at once, and as many in every minute after that.

    Names are those of API keys, so there are few of them.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        assert per_minute >= 1
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when it was so

    def take(self, name: str) -> None:
        """Count one request of `name`. Raises `RateLimitError`, then nothing is counted."""
        now = self._clock()
        left, at = self._buckets.get(name, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - at) * self._per_minute / 60)
        if left < 1:
            retry_after_s = max(1, math.ceil((1 - left) * 60 / self._per_minute))
            raise RateLimitError(
                f"{self._per_minute} requests per minute are all that one API key may send "
                f"(server.requests_per_minute); try again in {retry_after_s} s",
                retry_after_s,
            )
        self._buckets[name] = (left - 1, now)
