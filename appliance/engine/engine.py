"""The engine thread: schedule, forward, sample, for as long as there is work.

The event loop's thread and the engine thread meet here and nowhere else: an inbox one way,
`loop.call_soon_threadsafe` the other. Everything behind the inbox belongs to the engine thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Backend, KVStats
from appliance.engine.admission import Admission, shutting_down
from appliance.engine.generation import Generation
from appliance.engine.inbox import Inbox
from appliance.engine.recorder import Recorder
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.scheduler import ScheduledChunk, Scheduler
from appliance.engine.sequence import FinishReason, Sequence, StepOutput
from appliance.engine.token_constraint import TokenConstraint
from appliance.engine.verification import DraftCounts, verify
from appliance.errors import ApplianceError, DeadlineExceededError, EngineDeadError
from appliance.metrics import EngineMetrics

_log = logging.getLogger(__name__)


class Engine:
    """Runs sequences on a backend. Its public methods are for the event loop's thread.

    `death` is why the engine thread ended, if it ended by itself; `on_death` is then called, once.
    `max_draft_tokens` 0 is no prompt lookup; `drafts` counts its drafts since the start.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        prefill_chunk: int,
        max_waiting: int,
        prefill_chunk_busy: int | None = None,
        max_draft_tokens: int = 0,
    ) -> None:
        self.limits = backend.runner.limits
        self.death: EngineDeadError | None = None
        self.on_death: Callable[[EngineDeadError], None] = lambda death: None
        self._backend = backend
        self._admission = Admission(self.limits.max_slots, max_waiting)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._inbox = Inbox()
        # Written by the engine thread only.
        self._scheduler = Scheduler(
            backend.kv,
            self.limits,
            prefill_chunk=prefill_chunk,
            prefill_chunk_busy=prefill_chunk_busy,
            max_draft_tokens=max_draft_tokens,
        )
        self._scratch = np.empty(self.limits.vocab_size, dtype=np.float32)
        self._recorder = Recorder(self._scheduler, backend.kv)
        self.drafts = DraftCounts()
        self._outbox: list[tuple[Generation, StepOutput]] = []
        self._closing = False

    @property
    def num_open(self) -> int:
        """Sequences submitted and not yet finished, waiting or running."""
        return len(self._admission.open)

    @property
    def max_open(self) -> int:
        """Most sequences that may be submitted and not finished."""
        return self._admission.max_open

    def kv_stats(self) -> KVStats:
        """Counters of the KV cache, for a moment when nothing runs: they are added up unlocked."""
        return self._backend.kv.stats()

    def record_to(self, metrics: EngineMetrics) -> None:
        """Count what is done from now on; what was done before, as a warm-up, does not count."""
        self._admission.forget_pace()
        self._inbox.put(lambda: self._recorder.use(metrics))

    def start(self) -> None:
        """Start the engine thread; outputs arrive on the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(
        self,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        *,
        timeout_s: float,
        constraint: TokenConstraint | None = None,
    ) -> Generation:
        """Queue a sequence; the caller has checked that prompt and answer fit `max_model_len`.

        Raises `QueueFullError`, `NotReadyError` while draining, `EngineDeadError`.
        """
        if self.death is not None:
            # A new one each time: an exception keeps the frames of every place it was raised at.
            raise EngineDeadError(str(self.death))
        self._admission.check()
        generation = Generation(
            lambda reason: self._inbox.put(lambda: self._finish(sequence, reason)),
            params.max_tokens,
        )
        sequence = Sequence(
            prompt_ids,
            params,
            scratch=self._scratch,
            timeout_s=timeout_s,
            sink=lambda output: self._outbox.append((generation, output)),
            constraint=constraint,
        )
        self._admission.enter(generation)
        self._inbox.put(lambda: self._scheduler.add(sequence))
        return generation

    async def turn(self) -> None:
        """Return when the engine thread has come by, idle or between two steps; it may never."""
        await self._inbox.turn()

    def stop_accepting(self, retry_after_s: int = 5) -> None:
        """Refuse new sequences from now on; those submitted go on."""
        self._admission.close(retry_after_s)

    async def close(self) -> None:
        """Abort what still runs, end the thread and close the backend. Idempotent."""
        self.stop_accepting()
        if self._thread.is_alive():
            self._inbox.put(self._close)
            # The thread ends within one step; its last outputs need this loop to go on meanwhile.
            await asyncio.to_thread(self._thread.join)
        if self.death is None:
            self._backend.runner.close()

    def _deliver(self, outputs: list[tuple[Generation, StepOutput]]) -> None:
        for generation, output in outputs:
            generation.deliver(output)
        self._admission.delivered(outputs)

    def _declare_dead(self, death: EngineDeadError) -> None:
        self.death = death
        output = StepOutput((), 0, FinishReason.ERROR, death)
        self._recorder.died(self.num_open)
        self._deliver([(generation, output) for generation in self._admission.open])
        self.on_death(death)

    # From here on: the engine thread.

    def _run(self) -> None:
        assert self._loop is not None
        try:
            while not self._closing:
                self._inbox.run(wait=not self._scheduler.has_work, idle=self._idle)
                self.step()
                self._flush()
                self._backend.step_done()
            self._backend.save()
        except Exception as error:
            _log.exception("the engine thread died")
            death = EngineDeadError(f"the engine died ({error}); the service must be restarted")
            self._loop.call_soon_threadsafe(self._declare_dead, death)

    def step(self) -> None:
        """Schedule, forward, sample."""
        began_at = time.monotonic()
        for sequence in self._scheduler.expired(began_at):
            self._finish(sequence, FinishReason.ERROR, DeadlineExceededError(sequence.timeout_s))
        scheduled = self._scheduler.schedule()
        if not scheduled:
            return
        logits = self._backend.runner.forward([item.chunk for item in scheduled])
        row = 0
        for item in scheduled:
            num_logits = item.chunk.num_logits
            self._advance(item, logits[row : row + num_logits], began_at)
            row += num_logits
        self._recorder.step(scheduled, began_at)

    def _advance(self, item: ScheduledChunk, logits: NDArray[np.float32], began_at: float) -> None:
        """One sequence takes its part of the step: KV is there, and tokens where logits are."""
        sequence = item.sequence
        verified = verify(sequence, item.chunk, logits)
        self.drafts.add(verified)
        self._scheduler.computed(sequence, verified.num_kept)
        output = verified.output(sequence, began_at)
        if output.finish_reason is not None:
            self._end(sequence, output)
        elif output.token_ids:
            sequence.sink(output)

    def _finish(
        self, sequence: Sequence, reason: FinishReason, error: ApplianceError | None = None
    ) -> None:
        self._end(sequence, StepOutput((), sequence.num_cached_tokens, reason, error))

    def _end(self, sequence: Sequence, output: StepOutput) -> None:
        """The one way out for a sequence: its slot is free, its prefix kept, its reader told."""
        assert output.finish_reason is not None
        if self._scheduler.finish(sequence):
            self._recorder.finished(sequence, output.finish_reason)
            sequence.sink(output)

    def _close(self) -> None:
        self._closing = True
        error = shutting_down(retry_after_s=5)
        for sequence in self._scheduler.open_sequences():
            self._finish(sequence, FinishReason.ERROR, error)

    def _idle(self) -> None:
        self._backend.idle()
        self._recorder.refresh()

    def _flush(self) -> None:
        assert self._loop is not None
        if self._outbox:
            self._loop.call_soon_threadsafe(self._deliver, self._outbox)
            self._outbox = []
