"""Chooses one token from one position's logits.

Order, as vLLM has it: bias, penalties, what is allowed at all, temperature, min_p, top_k, top_p. So
tokens that are not allowed take no part in any share or rank. Where only the likeliest are to be
looked at, a bound that none of them is below comes first, and the rest is exact (`_candidates`). Of
equally likely tokens those with the smallest ids come first in every rank.

Numbers are drawn by inverse transform on the cumulated weights in the order of the ids, so that
rounding moves the borders between tokens a little and never their order: a cached prompt is
computed in other chunks, and the same seed must answer the same all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.engine.logits import (
    BLOCK,
    are_largest,
    at_least,
    block_sums,
    compress,
    largest,
    weights,
)
from appliance.engine.penalties import Penalties
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.token_constraint import AllowedTokens

# What float32 makes of the logarithm of a weight is off by less, for all weights above 0.
_ROUNDING = 1e-3


class Sampler:
    """One sequence's sampler: its random stream and its count of what was said.

    The same seed, prompt and logits give the same tokens. `scratch`, float32 `(vocab_size,)`, holds
    nothing between two calls of `sample`: samplers that one thread uses share it.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], scratch: NDArray[np.float32]
    ) -> None:
        self._params = params
        self._random = None if params.greedy else _generator(params.seed)
        self._scratch = scratch
        self._penalties = (
            Penalties(params, prompt_ids, len(scratch)) if params.changes_logits else None
        )

    def sample(self, logits: NDArray[np.float32], allowed: AllowedTokens | None = None) -> int:
        """Choose the next token from `logits`, float32 `(vocab_size,)`, and count it as said.

        With `allowed` it is one of those, as if there were no others.
        """
        if self._penalties is not None:
            np.copyto(self._scratch, logits)
            logits = self._scratch
            self._penalties.apply(logits)
        if allowed is not None and allowed.are_all:
            allowed = None
        if allowed is not None:
            logits = compress(logits, allowed.bits, self._scratch)
        choice = int(logits.argmax()) if self._random is None else self._draw(logits, self._random)
        token_id = choice if allowed is None else allowed.id_at(choice)
        if self._penalties is not None:
            self._penalties.count(token_id)
        return token_id

    def _draw(self, logits: NDArray[np.float32], random: np.random.Generator) -> int:
        params, highest = self._params, logits.max()
        temperature = np.float32(params.temperature)
        if params.top_k or params.min_p > 0 or params.top_p < 1:
            ids, weighed = _candidates(logits, highest, temperature, params)
            cumulated = np.cumsum(weighed, dtype=np.float64)
            return int(ids[_place(cumulated, random.random() * cumulated[-1])])
        cumulated = np.cumsum(block_sums(logits, highest, temperature))
        assert cumulated[-1] > 0, "the logits are not all numbers"
        drawn = random.random() * cumulated[-1]
        block = _place(cumulated, drawn)
        before = cumulated[block - 1] if block else 0.0
        begin = block * BLOCK
        weighed = weights(logits[begin : begin + BLOCK], highest, temperature)
        return begin + _place(np.cumsum(weighed, dtype=np.float64), drawn - before)


def _place(cumulated: NDArray[np.float64], drawn: float) -> int:
    """Whose share `drawn` falls on: never one without a share, and behind all of them the last."""
    last = np.searchsorted(cumulated, cumulated[-1], side="left")
    return int(min(last, np.searchsorted(cumulated, drawn, side="right")))


def _candidates(
    logits: NDArray[np.float32],
    highest: np.float32,
    temperature: np.float32,
    params: SamplingParams,
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The token ids that may be drawn, ascending, and their weights (that of the best one is 1)."""

    def at_least_weight(weight: float) -> NDArray[np.intp]:
        bound = float(highest) + float(temperature) * (math.log(weight) - _ROUNDING)
        return at_least(logits, bound)

    total = None
    if params.top_k:
        ids = largest(logits, params.top_k)
    elif params.min_p > 0:
        ids = at_least_weight(params.min_p)
    else:
        total = float(block_sums(logits, highest, temperature).sum())
        assert total > 0, "the logits are not all numbers"
        # All tokens below this weight together hold less than 1 - top_p of the total, so the
        # nucleus, which takes the likelier ones first, is full before it reaches them.
        ids = at_least_weight((1 - params.top_p) * total / len(logits))
    weighed = weights(logits[ids], highest, temperature)
    if params.min_p > 0:
        keep = weighed >= params.min_p
        ids, weighed = ids[keep], weighed[keep]
    if params.top_p < 1:
        keep = _nucleus(weighed, params.top_p, total)
        ids, weighed = ids[keep], weighed[keep]
    return ids, weighed


def _nucleus(weighed: NDArray[np.float32], top_p: float, total: float | None) -> NDArray[np.bool_]:
    """Marks the smallest set of most likely tokens whose share of `total` reaches `top_p`.

    `total` is that of `weighed`, if it is None.
    """
    cumulated = np.cumsum(np.sort(weighed)[::-1], dtype=np.float64)
    reached = cumulated >= top_p * (cumulated[-1] if total is None else total)
    length = int(reached.argmax()) + 1 if reached.any() else len(weighed)
    return are_largest(weighed, length)


def _generator(seed: int | None) -> np.random.Generator:
    # PCG64 takes no negative seed; the mask keeps every 64-bit seed distinct.
    return np.random.Generator(np.random.PCG64(None if seed is None else seed & (2**64 - 1)))
