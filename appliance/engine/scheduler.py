"""Decides which sequences compute which tokens in the next step.

First in, first out, into the running set; only whose prompt another one is computing waits
until that is done. There every sequence that decodes gets one token per step, with drafts of the
next ones where they pay and there is room, and prompts share a budget of tokens: a large one when
nobody is kept waiting by it, a small one while answers stream. Every other step the shortest
prompts come first, so that a short question does not wait behind a long one; in between the oldest
do, so that a long one never starves.

Where the backend cannot mix phases, a step is either one prompt's chunk or the next token of every
sequence that decodes, and the two kinds take turns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from appliance.backends.base import Chunk, KVCacheManager, RunnerLimits
from appliance.engine.draft_planner import DraftPlanner
from appliance.engine.sequence import Sequence, SequenceStatus


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """A chunk and the sequence it belongs to."""

    sequence: Sequence
    chunk: Chunk


class Scheduler:
    """Owns the queues; every sequence in them is WAITING or RUNNING, none is in both."""

    def __init__(
        self,
        kv: KVCacheManager,
        limits: RunnerLimits,
        *,
        prefill_chunk: int,
        prefill_chunk_busy: int | None = None,
        max_draft_tokens: int = 0,
    ) -> None:
        self._kv = kv
        self._limits = limits
        self._prefill_chunk = prefill_chunk
        self._prefill_chunk_busy = min(prefill_chunk, prefill_chunk_busy or _busy_chunk(limits))
        self._planner = DraftPlanner(max_draft_tokens, limits)
        self._prefilled_last = False
        self._shortest_first = True
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

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
        prompts = self._share_budget(prefilling, busy=bool(decoding))
        if not self._limits.mixes_phases:
            if prompts and not (decoding and self._prefilled_last):
                prompts, decoding = prompts[:1], []
            else:
                prompts = []
        self._prefilled_last = bool(prompts)
        drafts = self._drafts(decoding, [num_tokens for _, num_tokens in prompts])
        return [
            *(self._scheduled(sequence, num_tokens) for sequence, num_tokens in prompts),
            *(self._scheduled(s, 1, ids) for s, ids in zip(decoding, drafts, strict=True)),
        ]

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
        for sequence in list(self.waiting):
            if len(self.running) >= self._limits.max_slots:
                return
            if self._is_being_computed(sequence):
                continue
            allocation = self._kv.allocate(sequence.token_ids)
            if allocation is None:
                return
            self.waiting.remove(sequence)
            sequence.slot = allocation.slot
            if not sequence.preempted:
                # What it finds when it comes back is mostly its own, not what another left.
                sequence.num_cached_tokens = allocation.num_cached_tokens
            sequence.num_computed_tokens = allocation.num_cached_tokens
            sequence.status = SequenceStatus.RUNNING
            self.running.append(sequence)

    def _is_being_computed(self, sequence: Sequence) -> bool:
        """Whether another one computes the same prompt: when it is done, this one finds it there.

        So several answers to one prompt cost one prefill, whoever asked for them.
        """
        return any(
            other.prefilling and other.token_ids == sequence.token_ids for other in self.running
        )

    def _make_room(self) -> None:
        """Preempt the youngest sequences until every other one can take its next chunk.

        A preempted sequence loses KV, never tokens: it waits at the head of the queue and computes
        prompt and answer again, which the prefix cache may spare it.
        """
        for sequence in list(self.running):
            num_tokens = min(sequence.num_pending_tokens, self._prefill_chunk)
            while sequence.slot is not None and not self._kv.reserve(sequence.slot, num_tokens):
                youngest = self.running.pop()
                assert youngest.slot is not None
                self._kv.free(youngest.slot, keep_prefix=True)
                youngest.slot = None
                youngest.preempted = True
                self.num_preemptions += 1
                youngest.num_computed_tokens = 0
                youngest.status = SequenceStatus.WAITING
                self.waiting.appendleft(youngest)

    def _share_budget(
        self, prefilling: list[Sequence], *, busy: bool
    ) -> list[tuple[Sequence, int]]:
        """Which prompts go on in this step, and by how many tokens each."""
        budget = self._prefill_chunk_busy if busy else self._prefill_chunk
        # Steps without a prompt do not count: where every other step is one, the order would
        # never change.
        if self._prefilled_last:
            self._shortest_first = not self._shortest_first
        if self._shortest_first:
            prefilling = sorted(prefilling, key=lambda s: s.num_pending_tokens)
        shares = []
        for sequence in prefilling:
            num_tokens = min(sequence.num_pending_tokens, budget)
            if num_tokens == 0:
                break
            shares.append((sequence, num_tokens))
            budget -= num_tokens
        return shares

    def _drafts(self, decoding: list[Sequence], prompt_tokens: list[int]) -> list[tuple[int, ...]]:
        """Drafts for each of `decoding`; none where there is no room: nobody makes way for them."""
        planned = self._planner.plan(decoding, prompt_tokens)
        return [
            ids if ids and s.slot is not None and self._kv.reserve(s.slot, 1 + len(ids)) else ()
            for s, ids in zip(decoding, planned, strict=True)
        ]

    def _scheduled(
        self, sequence: Sequence, num_tokens: int, drafts: tuple[int, ...] = ()
    ) -> ScheduledChunk:
        assert sequence.slot is not None
        start = sequence.num_computed_tokens
        # Logits are wanted only behind the last token there is; inside a prompt nobody asks.
        reaches_end = start + num_tokens == len(sequence.token_ids)
        assert reaches_end or not drafts
        chunk = Chunk(
            slot=sequence.slot,
            token_ids=(*sequence.token_ids[start : start + num_tokens], *drafts),
            start=start,
            num_logits=int(reaches_end) + len(drafts),
        )
        return ScheduledChunk(sequence, chunk)


def _busy_chunk(limits: RunnerLimits) -> int:
    """What streams have to wait for is a chunk; where it has a pass of its own, that pass reads all
    weights, which a smaller chunk would pay for more often."""
    return 32 if limits.mixes_phases else 64
