"""Whether a candidate still answers what the default answers: speed is not bought with quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEAR_TIE = 0.5
"""Another token may be the likeliest where the default's own is ahead by no more (logits)."""

MAX_MEAN_KL = 0.02
"""KL(default || candidate) in nats, mean over the answer: as much as the build's quality gate lets
the compression of the weights cost."""


def objection(default: NDArray[np.float32], candidate: NDArray[np.float32]) -> str | None:
    """What speaks against `candidate`, None if nothing does.

    Both are logits `(positions, vocab_size)` behind the same tokens.
    """
    for position, (ours, theirs) in enumerate(zip(default, candidate, strict=True)):
        behind = float(ours.max() - ours[theirs.argmax()])
        if not behind <= NEAR_TIE:
            return (
                f"token {position + 1} of the golden answer is another one, {behind:.2f} behind "
                f"the default's (limit {NEAR_TIE:g})"
            )
    divergence = mean_kl(default, candidate)
    if not divergence <= MAX_MEAN_KL:
        return f"{divergence:.3f} nats from the default's probabilities (limit {MAX_MEAN_KL:g})"
    return None


def mean_kl(default: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """Mean of KL(default || candidate) over the positions, in nats."""
    ours, theirs = _log_probabilities(default), _log_probabilities(candidate)
    return float((np.exp(ours) * (ours - theirs)).sum(axis=1).mean())


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
