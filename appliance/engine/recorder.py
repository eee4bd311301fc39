"""Turns steps into metrics: who waited how long, which tokens were computed, and when.

It reads what the scheduler and the sequences know anyway, once per step, so that the engine has
nothing to count by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf

from appliance.backends.base import KVCacheManager
from appliance.engine.scheduler import ScheduledChunk, Scheduler
from appliance.engine.sequence import FinishReason, Sequence
from appliance.engine.timing import Timing
from appliance.metrics import EngineMetrics

# Adding up what the KV cache holds takes time that grows with it.
_REFRESH_EVERY_S = 1.0


class Recorder:
    """Belongs to the engine thread, but for `died`. Counts nothing until told what to `use`."""

    def __init__(self, scheduler: Scheduler, kv: KVCacheManager) -> None:
        self._scheduler = scheduler
        self._kv = kv
        self._metrics: EngineMetrics | None = None
        self._num_preemptions = 0
        self._refresh_at = 0.0

    def use(self, metrics: EngineMetrics) -> None:
        """Count into `metrics` from now on; sequences begun before are to be finished by then."""
        self._metrics = metrics
        self._num_preemptions = self._scheduler.num_preemptions
        metrics.running.set_function(lambda: len(self._scheduler.running))
        metrics.waiting.set_function(lambda: len(self._scheduler.waiting))
        self.refresh()

    def step(self, scheduled: SequenceOf[ScheduledChunk], began_at: float) -> None:
        """A step that began at `began_at` (monotonic) is over, its tokens are in the answers."""
        metrics, now = self._metrics, time.monotonic()
        if metrics is None:
            return
        prefills = [self._record(metrics, item, began_at, now) for item in scheduled]
        phase = "mixed" if any(prefills) else "decode"
        metrics.step_duration["prefill" if all(prefills) else phase].observe(now - began_at)
        if self._scheduler.num_preemptions > self._num_preemptions:
            metrics.preemptions.inc(self._scheduler.num_preemptions - self._num_preemptions)
            self._num_preemptions = self._scheduler.num_preemptions
        if now >= self._refresh_at:
            self.refresh()

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """A sequence has ended, whatever it was doing."""
        if self._metrics is not None:
            self._metrics.finished[reason.value].inc()
            self._metrics.prompt_length.observe(sequence.num_prompt_tokens)
            self._metrics.answer_length.observe(sequence.num_output_tokens)

    def refresh(self) -> None:
        """Look what the KV cache holds."""
        self._refresh_at = time.monotonic() + _REFRESH_EVERY_S
        if self._metrics is not None:
            stats = self._kv.stats()
            self._metrics.kv_tokens.set(stats.num_tokens)
            for kind, num_bytes in stats.bytes_by_kind.items():
                self._metrics.kv_bytes.labels(kind).set(num_bytes)

    def died(self, num_open: int) -> None:
        """The engine thread has ended, and `num_open` sequences with it."""
        if self._metrics is not None:
            self._metrics.finished[FinishReason.ERROR.value].inc(num_open)
            self._metrics.running.set_function(lambda: 0)
            self._metrics.waiting.set_function(lambda: 0)

    def _record(
        self, metrics: EngineMetrics, item: ScheduledChunk, began_at: float, now: float
    ) -> bool:
        """One sequence's part of the step; whether that was prefill."""
        sequence, chunk = item.sequence, item.chunk
        timing = sequence.timing
        if timing.started_at is None:
            timing.started_at = began_at
            metrics.queue_time.observe(began_at - timing.submitted_at)
            metrics.prompt_tokens.inc(sequence.num_prompt_tokens)
            metrics.cached_prompt_tokens.inc(sequence.num_cached_tokens)
        num_drafts = max(chunk.num_logits - 1, 0)
        num_pending = sequence.num_prompt_tokens + timing.num_tokens - chunk.start
        is_prefill = timing.num_tokens == 0 or num_pending > 1
        num_new = sequence.num_output_tokens - timing.num_tokens
        if is_prefill:
            metrics.prefill_tokens.inc(len(chunk.token_ids) - num_drafts)
        if num_drafts:
            metrics.draft_tokens.inc(num_drafts)
            metrics.accepted_draft_tokens.inc(sequence.num_accepted_tokens - timing.num_accepted)
            timing.num_accepted = sequence.num_accepted_tokens
        if num_new:
            _record_tokens(metrics, timing, num_new, now)
        return is_prefill


def _record_tokens(metrics: EngineMetrics, timing: Timing, num_new: int, now: float) -> None:
    assert timing.started_at is not None
    metrics.generation_tokens.inc(num_new)
    if timing.last_token_at is None:
        metrics.prefill_time.observe(now - timing.started_at)
    else:
        metrics.inter_token_latency.observe(now - timing.last_token_at)
    for _ in range(num_new - 1):
        metrics.inter_token_latency.observe(0.0)
    timing.last_token_at = now
    timing.num_tokens += num_new
