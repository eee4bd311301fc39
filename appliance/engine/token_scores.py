"""How likely the model held a token, and which ones it held likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.engine.logits import block_sums, largest


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Natural logarithms of probabilities: of the token chosen, and of the likeliest ones.

    `top` holds pairs of token id and logarithm, the likeliest first; the token chosen need not be
    among them.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


def score(
    logits: NDArray[np.float32], token_ids: Sequence[int], num_top: int
) -> tuple[TokenScores, ...]:
    """The scores of tokens chosen from the first rows of `logits`, float32 `(rows, vocab_size)`.

    They are the log-softmax of the model's own logits: before temperature, penalties, bias and
    whatever else has a say in which token is chosen.
    """
    return tuple(
        _score(row, token_id, num_top) for row, token_id in zip(logits, token_ids, strict=False)
    )


def _score(logits: NDArray[np.float32], token_id: int, num_top: int) -> TokenScores:
    highest = logits.max()
    total = float(highest) + float(np.log(block_sums(logits, highest, np.float32(1)).sum()))
    likely = largest(logits, num_top) if num_top else np.empty(0, dtype=np.intp)
    # Of equally likely ones the smaller id first, which is also the greedy choice.
    ranked = likely[np.argsort(-logits[likely], kind="stable")]
    top = tuple((int(i), float(logits[i]) - total) for i in ranked)
    return TokenScores(float(logits[token_id]) - total, top)
