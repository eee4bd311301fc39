"""The asyncio side of one sequence: where its outputs arrive and how its reader lets go of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from appliance.engine.sequence import FinishReason, StepOutput


class Generation:
    """One reader's view of a running sequence. Lives on the event loop's thread.

    Iterate `outputs()` once; call `abort()` at any time, as often as you like. Whoever starts a
    generation owns it and calls `abort()` when done, however it ended.
    """

    def __init__(self, abort: Callable[[], None]) -> None:
        self._abort = abort
        self._outputs: asyncio.Queue[StepOutput] = asyncio.Queue()
        self._finished = False

    def deliver(self, output: StepOutput) -> None:
        """Take one step's output; called by the engine through the event loop."""
        self._finished = self._finished or output.finish_reason is not None
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

    def abort(self) -> None:
        """Stop the sequence within one step if it still runs, and end `outputs()`. Idempotent."""
        if not self._finished:
            self._finished = True
            self._abort()
            self._outputs.put_nowait(StepOutput((), 0, FinishReason.ABORT))
