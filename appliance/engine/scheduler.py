"""Decides which sequences compute which tokens in the next step.

First in, first out. Where the backend cannot mix phases, a step is either one sequence's prefill
chunk or one token of every sequence that decodes, and the two kinds take turns, so that a long
prompt delays running answers by one chunk at a time and never starves.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from appliance.backends.base import Chunk, KVCacheManager, RunnerLimits
from appliance.engine.sequence import Sequence, SequenceStatus


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """A chunk and the sequence it belongs to."""

    sequence: Sequence
    chunk: Chunk


class Scheduler:
    """Owns the queues; every sequence in them is WAITING or RUNNING, none is in both."""

    def __init__(self, kv: KVCacheManager, limits: RunnerLimits, *, prefill_chunk: int) -> None:
        self._kv = kv
        self._limits = limits
        self._prefill_chunk = prefill_chunk
        self._prefilled_last = False
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        assert sequence.status is SequenceStatus.WAITING
        self.waiting.append(sequence)

    def schedule(self) -> list[ScheduledChunk]:
        """The next step's chunks; empty only when there is no work."""
        self._admit()
        self._make_room()
        prefilling = [s for s in self.running if s.prefilling]
        decoding = [s for s in self.running if not s.prefilling]
        if self._limits.mixes_phases:
            chosen = prefilling[:1] + decoding
        elif prefilling and not (decoding and self._prefilled_last):
            chosen = prefilling[:1]
        else:
            chosen = decoding
        self._prefilled_last = bool(chosen) and chosen[0].prefilling
        return [ScheduledChunk(sequence, self._chunk(sequence)) for sequence in chosen]

    def computed(self, sequence: Sequence, num_tokens: int) -> None:
        """KV of the sequence's next `num_tokens` tokens is in its slot now."""
        assert sequence.slot is not None
        start = sequence.num_computed_tokens
        self._kv.commit(sequence.slot, sequence.token_ids[start : start + num_tokens])
        sequence.num_computed_tokens += num_tokens

    def finish(self, sequence: Sequence, *, keep_prefix: bool = True) -> bool:
        """Take a sequence out, whatever it was doing. False when it was finished already."""
        if sequence.status is SequenceStatus.FINISHED:
            return False
        if sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            assert sequence.slot is not None
            self._kv.free(sequence.slot, keep_prefix=keep_prefix)
            sequence.slot = None
        sequence.status = SequenceStatus.FINISHED
        return True

    def open_sequences(self) -> list[Sequence]:
        """All that are not finished, running ones first."""
        return [*self.running, *self.waiting]

    def expired(self, now: float) -> list[Sequence]:
        """Sequences, waiting or running, whose deadline has passed."""
        return [s for s in self.open_sequences() if now >= s.deadline]

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._limits.max_slots:
            sequence = self.waiting[0]
            allocation = self._kv.allocate(sequence.token_ids)
            if allocation is None:
                return
            self.waiting.popleft()
            sequence.slot = allocation.slot
            if not sequence.preempted:
                # What it finds when it comes back is mostly its own, not what another left.
                sequence.num_cached_tokens = allocation.num_cached_tokens
            sequence.num_computed_tokens = allocation.num_cached_tokens
            sequence.status = SequenceStatus.RUNNING
            self.running.append(sequence)

    def _make_room(self) -> None:
        """Preempt the youngest sequences until every other one can take its next chunk.

        A preempted sequence loses KV, never tokens: it waits at the head of the queue and computes
        prompt and answer again, which the prefix cache may spare it.
        """
        for sequence in list(self.running):
            while sequence.slot is not None and not self._kv.reserve(
                sequence.slot, self._chunk_length(sequence)
            ):
                youngest = self.running.pop()
                assert youngest.slot is not None
                self._kv.free(youngest.slot, keep_prefix=True)
                youngest.slot = None
                youngest.preempted = True
                youngest.num_computed_tokens = 0
                youngest.status = SequenceStatus.WAITING
                self.waiting.appendleft(youngest)

    def _chunk_length(self, sequence: Sequence) -> int:
        return min(sequence.num_pending_tokens, self._prefill_chunk)

    def _chunk(self, sequence: Sequence) -> Chunk:
        assert sequence.slot is not None
        start = sequence.num_computed_tokens
        num_tokens = self._chunk_length(sequence)
        # Logits are wanted only behind the last token there is; inside a prompt nobody asks.
        reaches_end = start + num_tokens == len(sequence.token_ids)
        return Chunk(
            slot=sequence.slot,
            token_ids=tuple(sequence.token_ids[start : start + num_tokens]),
            start=start,
            num_logits=int(reaches_end),
        )
