"""Who may come in, and when one who may not should try again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from itertools import islice

from appliance.engine.generation import Generation
from appliance.engine.pace import Pace
from appliance.engine.sequence import StepOutput
from appliance.errors import NotReadyError, QueueFullError

# OpenAI's clients wait as they are told up to a minute, and as they like above.
_MAX_RETRY_AFTER_S = 60
_UNKNOWN_S = 2.0


class Admission:
    """The bounded queue's door. Lives on the event loop's thread.

    At most `max_slots` run and `max_waiting` wait. Clients that were sent away are expected back at
    different times, one for each place that comes free: told the same time, all but one of them
    would find the queue full again.
    """

    def __init__(
        self, max_slots: int, max_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_open = max_slots + max_waiting
        self._max_slots = max_slots
        self._clock = clock
        # In the order they came, which is the order they are seated in.
        self._open: dict[Generation, None] = {}
        self._pace = Pace()
        self._next_return_at = 0.0
        self._closed_for_s: int | None = None

    @property
    def open(self) -> Collection[Generation]:
        """Generations that came in and have not ended."""
        return self._open.keys()

    def check(self) -> None:
        """Raise `NotReadyError` when closed and `QueueFullError` when full."""
        if self._closed_for_s is not None:
            raise shutting_down(self._closed_for_s)
        if len(self._open) >= self.max_open:
            raise QueueFullError(
                f"{len(self._open)} requests are waiting or running, which is all that "
                "engine.max_waiting allows; try again later",
                retry_after_s=self._retry_after_s(self._clock()),
            )

    def enter(self, generation: Generation) -> None:
        """One more is open; `check` has let it in."""
        if not self._open:
            self._pace.resumed(self._clock())
        self._open[generation] = None

    def delivered(self, outputs: Collection[tuple[Generation, StepOutput]]) -> None:
        """What one step gave was delivered; those that ended with it leave."""
        num_tokens = sum(len(output.token_ids) for _, output in outputs)
        self._pace.delivered(self._clock(), num_tokens)
        for generation, output in outputs:
            if output.finish_reason is not None:
                self._open.pop(generation, None)
                self._pace.finished(generation.num_output_tokens)

    def forget_pace(self) -> None:
        """What was measured so far is not how it will be."""
        self._pace = Pace()

    def close(self, retry_after_s: int) -> None:
        """Let nobody in any more; what is open goes on."""
        self._closed_for_s = retry_after_s

    def _retry_after_s(self, now: float) -> int:
        running = list(islice(self._open, self._max_slots))
        wait = self._pace.seconds_to_place(running) or _UNKNOWN_S
        between = self._pace.seconds_per_place() or 0.0
        back_at = max(now + wait, self._next_return_at + between)
        self._next_return_at = min(back_at, now + _MAX_RETRY_AFTER_S)
        return max(1, math.ceil(self._next_return_at - now))


def shutting_down(retry_after_s: int) -> NotReadyError:
    """The error for everybody who comes, or is still there, when the service ends."""
    return NotReadyError("the service is shutting down", retry_after_s=retry_after_s)
