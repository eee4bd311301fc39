"""Chooses one token from one position's logits.

Order, as vLLM has it: bias, penalties, what is allowed at all, temperature, min_p, top_k, top_p. So
tokens that are not allowed take no part in any share or rank. Where a full sort of the vocabulary
is avoided, the tokens left out have no chance, or less than 1e-7 in all (`_candidates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.engine.sampling_params import SamplingParams


class Sampler:
    """One sequence's sampler: its random stream and its count of what was said.

    The same seed, prompt and logits give the same tokens.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self._random = None if params.greedy else _generator(params.seed)
        self._counts: Counter[int] = Counter()
        self._said: set[int] = set(prompt_ids) if params.repetition_penalty != 1.0 else set()
        self._bias = {i: b for i, b in params.logit_bias.items() if 0 <= i < vocab_size}

    def sample(self, logits: NDArray[np.float32], allowed: NDArray[np.intp] | None = None) -> int:
        """Choose the next token from `logits`, float32 `(vocab_size,)`, and count it as said.

        With `allowed`, ascending token ids, it is one of those, as if there were no others.
        """
        if self._params.changes_logits:
            logits = self._penalised(logits)
        if allowed is not None:
            logits = logits[allowed]
        choice = int(logits.argmax()) if self._random is None else self._draw(logits)
        token_id = choice if allowed is None else int(allowed[choice])
        if self._params.changes_logits:
            self._counts[token_id] += 1
            self._said.add(token_id)
        return token_id

    def _penalised(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        params, logits = self._params, logits.copy()
        if self._bias:
            ids = np.fromiter(self._bias.keys(), dtype=np.intp)
            logits[ids] += np.fromiter(self._bias.values(), dtype=np.float32)
        if params.repetition_penalty != 1.0:
            ids = np.fromiter(self._said, dtype=np.intp)
            said = logits[ids]
            penalty = np.float32(params.repetition_penalty)
            logits[ids] = np.where(said > 0, said / penalty, said * penalty)
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            ids = np.fromiter(self._counts.keys(), dtype=np.intp)
            counts = np.fromiter(self._counts.values(), dtype=np.float32)
            logits[ids] -= params.presence_penalty + params.frequency_penalty * counts
        return logits

    def _draw(self, logits: NDArray[np.float32]) -> int:
        assert self._random is not None
        ids, weights = _candidates(logits, self._params)
        # Inverse transform on the cumulated weights; float64, so that the last one is really
        # reached.
        cumulated = np.cumsum(weights, dtype=np.float64)
        drawn = self._random.random() * cumulated[-1]
        return int(ids[min(int(np.searchsorted(cumulated, drawn, side="right")), len(ids) - 1)])


def _candidates(
    logits: NDArray[np.float32], params: SamplingParams
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The token ids that may be drawn and their unnormalised probabilities (the best one has 1).

    Ids ascend, so that rounding moves the borders between tokens a little and never their order:
    a cached prompt is computed in other chunks, and the same seed must answer the same all the
    same.
    """
    scaled = (logits - logits.max()) / np.float32(params.temperature)
    if params.top_k and params.top_k < len(scaled):
        ids = np.sort(np.argpartition(scaled, -params.top_k)[-params.top_k :])
        weights = np.exp(scaled[ids])
    else:
        # exp(-30) is 1e-13 of the best token's: with 2^18 of them, a chance of less than 1e-7 in
        # all.
        ids = np.flatnonzero(scaled > -30)
        weights = np.exp(scaled[ids])
    if params.min_p > 0:
        keep = weights >= params.min_p
        ids, weights = ids[keep], weights[keep]
    if params.top_p < 1:
        ids, weights = _nucleus(ids, weights, params.top_p)
    return ids, weights


def _nucleus(
    ids: NDArray[np.intp], weights: NDArray[np.float32], top_p: float
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The smallest set of most likely tokens whose share reaches `top_p`, in the order given."""
    total = float(weights.sum(dtype=np.float64))
    # All tokens below this weight together hold less than 1 - top_p of the total, so the nucleus,
    # which takes the likelier ones first, is full before it reaches them.
    likely = weights > (1 - top_p) * total / len(weights)
    if likely.any():
        ids, weights = ids[likely], weights[likely]
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order], dtype=np.float64) >= top_p * total
    length = int(reached.argmax()) + 1 if reached.any() else len(order)
    kept = np.sort(order[:length])
    return ids[kept], weights[kept]


def _generator(seed: int | None) -> np.random.Generator:
    # PCG64 takes no negative seed; the mask keeps every 64-bit seed distinct.
    return np.random.Generator(np.random.PCG64(None if seed is None else seed & (2**64 - 1)))
