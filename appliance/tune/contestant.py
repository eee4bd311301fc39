"""One set of settings, loaded and ready to be timed, through the KV seam and nothing below it."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Allocation, Backend, Chunk
from appliance.errors import BackendError
from appliance.tune.drafts import PassTimes
from appliance.tune.judge import PROMPT_TOKENS, TurnTimes

NUM_DECODE_STEPS = 8
PASS_SIZES = (1, 2, 4, 8, 16)
"""Tokens per pass whose cost tells how many drafts pay; one token is a decode step."""


class Contestant(Protocol):
    """What is timed. A fake one needs no model."""

    def answer_logits(
        self, prompt_ids: tuple[int, ...], answer_ids: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Logits `(len(answer_ids), vocab_size)`: what comes in the place of each answer token."""

    def time_turn(self) -> TurnTimes:
        """One round: a prompt of `PROMPT_TOKENS` and decode steps behind it."""

    def time_passes(self) -> PassTimes:
        """Two passes of each of `PASS_SIZES` behind such a prompt."""

    def time_prefill(self, num_tokens: int, chunk: int) -> float:
        """Milliseconds for a prompt that nothing is known of, `chunk` tokens a pass."""

    def close(self) -> None:
        """Give back the model and its memory."""


class BackendContestant:
    """Times a real backend with made-up tokens, no two prompts alike."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._random = random.Random(0)  # noqa: S311 - tokens nobody reads

    def answer_logits(
        self, prompt_ids: tuple[int, ...], answer_ids: tuple[int, ...]
    ) -> NDArray[np.float32]:
        with self._seated(prompt_ids) as row:
            # Token by token, as answers come: within one pass, attention may not look at the KV
            # cache at all, and its precision would not show.
            rows = [row.compute_all().copy()]
            rows += [row.extend([token_id]).copy() for token_id in answer_ids[:-1]]
        return np.concatenate(rows)

    def time_turn(self, num_decode_steps: int = NUM_DECODE_STEPS) -> TurnTimes:
        with self._seated(self._tokens(PROMPT_TOKENS)) as row:
            prefill = _timed(row.compute_all)
            steps = [_timed(row.extend, self._tokens(1)) for _ in range(num_decode_steps)]
        return TurnTimes(statistics.median(steps), prefill)

    def time_passes(self) -> PassTimes:
        times = PassTimes({}, {})
        with self._seated(self._tokens(PROMPT_TOKENS)) as row:
            row.compute_all()
            for size in PASS_SIZES:
                times.changed[size] = _timed(row.extend, self._tokens(size))
                times.steady[size] = _timed(row.extend, self._tokens(size))
        return times

    def time_prefill(self, num_tokens: int, chunk: int) -> float:
        with self._seated(self._tokens(num_tokens)) as row:
            return _timed(row.compute_all, chunk)

    def close(self) -> None:
        self._backend.runner.close()

    @contextmanager
    def _seated(self, token_ids: tuple[int, ...]) -> Iterator[_Row]:
        kv = self._backend.kv
        allocation = kv.allocate(token_ids)
        if allocation is None:
            raise BackendError(f"no room for {len(token_ids)} tokens; raise engine.kv_cache_mb")
        try:
            yield _Row(self._backend, allocation, token_ids)
        finally:
            kv.free(allocation.slot, keep_prefix=False)
            self._backend.runner.idle()

    def _tokens(self, num_tokens: int) -> tuple[int, ...]:
        vocab_size = self._backend.runner.limits.vocab_size
        return tuple(self._random.choices(range(vocab_size), k=num_tokens))


class _Row:
    """A sequence in its slot, as the scheduler would treat it."""

    def __init__(self, backend: Backend, seat: Allocation, token_ids: tuple[int, ...]) -> None:
        self._backend = backend
        self._slot = seat.slot
        self._token_ids = token_ids
        self._num_computed = seat.num_cached_tokens

    def compute_all(self, chunk: int | None = None) -> NDArray[np.float32]:
        """Compute the tokens it was seated with, `chunk` a pass; the logits of the last one."""
        chunk = chunk or len(self._token_ids)
        for start in range(self._num_computed, len(self._token_ids), chunk):
            part = self._token_ids[start : start + chunk]
            is_last = start + chunk >= len(self._token_ids)
            logits = self.extend(part, int(is_last))
        return logits

    def extend(
        self, token_ids: Sequence[int], num_logits: int | None = None
    ) -> NDArray[np.float32]:
        """Compute `token_ids` behind the rest; logits of the last `num_logits`, None: of all."""
        wanted = len(token_ids) if num_logits is None else num_logits
        if not self._backend.kv.reserve(self._slot, len(token_ids)):
            raise BackendError(f"no room for {len(token_ids)} tokens more")
        chunk = Chunk(self._slot, tuple(token_ids), self._num_computed, wanted)
        logits = self._backend.runner.forward([chunk])
        self._backend.kv.commit(self._slot, token_ids)
        self._num_computed += len(token_ids)
        return logits


def _timed(compute: Callable[..., object], *arguments: object) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    compute(*arguments)
    return (time.perf_counter() - begun) * 1000
