"""The asyncio side of one sequence: where its outputs arrive and how its reader lets go of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from appliance.engine.sequence import FinishReason, Progress, StepOutput


class Generation:
    """One reader's view of a running sequence. Lives on the event loop's thread.

    Iterate `outputs()` once; call `abort()` at any time, as often as you like. Whoever starts a
    generation owns it and calls `abort()` when done, however it ended. `max_tokens` is what the
    answer may get, `num_output_tokens` what was delivered. Times are on the monotonic clock;
    `first_at` and `last_at` are those of the first and the last token's delivery, None before.
    """

    def __init__(self, finish: Callable[[FinishReason], None], max_tokens: int) -> None:
        self._finish = finish
        self._outputs: asyncio.Queue[StepOutput] = asyncio.Queue()
        self._finished = False
        self.max_tokens = max_tokens
        self.num_output_tokens = 0
        self.submitted_at = time.monotonic()
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.progress = Progress(0.0, 0, 0)

    @property
    def time_per_output_token_s(self) -> float | None:
        """(last - first token's delivery) / (tokens - 1), in seconds; None below two tokens."""
        if self.num_output_tokens < 2:
            return None
        assert self.first_at is not None and self.last_at is not None
        return (self.last_at - self.first_at) / (self.num_output_tokens - 1)

    def deliver(self, output: StepOutput) -> None:
        """Take one step's output; called by the engine through the event loop."""
        self._finished = self._finished or output.finish_reason is not None
        self.progress = output.progress or self.progress
        if output.token_ids:
            self.last_at = time.monotonic()
            if self.first_at is None:
                self.first_at = self.last_at
            self.num_output_tokens += len(output.token_ids)
        self._outputs.put_nowait(output)

    async def outputs(self) -> AsyncIterator[StepOutput]:
        """Outputs as they come, to the one with a finish reason.

        Raises the `ApplianceError` that ended the sequence, if one did.
        """
        while True:
            output = await self._outputs.get()
            if output.error is not None:
                raise output.error
            yield output
            if output.finish_reason is not None:
                return

    def stop(self) -> None:
        """The answer is complete as it is: end the sequence within one step. Idempotent."""
        self._end(FinishReason.STOP)

    def abort(self) -> None:
        """Nobody wants the answer: end the sequence as `stop` does, and `outputs()`. Idempotent."""
        self._end(FinishReason.ABORT)

    def _end(self, reason: FinishReason) -> None:
        if not self._finished:
            self._finished = True
            self._finish(reason)
            self._outputs.put_nowait(StepOutput((), 0, reason))
