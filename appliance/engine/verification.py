"""Which tokens a step gives a sequence: one, and one more for every draft that was right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Chunk
from appliance.engine.sequence import FinishReason, Sequence


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of one chunk.

    `token_ids` are new in the answer; `finish_reason` says why it ends with them, None that it goes
    on. The chunk's first `num_kept` tokens are the sequence's: their KV is to be kept.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    num_kept: int
    num_drafted: int
    num_accepted: int


@dataclass(slots=True)
class DraftCounts:
    """Drafts of all sequences. Written by the engine thread, to be read by any."""

    num_drafted: int = 0
    num_accepted: int = 0

    def add(self, verified: Verified) -> None:
        self.num_drafted += verified.num_drafted
        self.num_accepted += verified.num_accepted


def verify(sequence: Sequence, chunk: Chunk, logits: NDArray[np.float32]) -> Verified:
    """Choose the token behind the sequence's last one, and go on while the drafts say the same.

    `logits`: float32 `(chunk.num_logits, vocab_size)`. All tokens of the chunk behind the first one
    that has logits are drafts. The new tokens are appended to the sequence.

    Exact, for greedy and for sampled answers: every token is drawn by the sequence's own sampler
    from the model's distribution behind the tokens before it. A draft has no say in that; it only
    decides whether the next row of logits is of any use, which it is if the token drawn is the one
    that row was computed behind. (In the words of rejection sampling: a draft to which the model
    gives probability p is accepted with p, and otherwise its place is taken by a draw from the
    rest.) The sampler draws one random number and counts one token per token of the answer, in
    their order, so that seed and penalties mean the same with drafts and without.
    """
    num_drafted = max(0, chunk.num_logits - 1)
    num_own = len(chunk.token_ids) - num_drafted
    token_ids: list[int] = []
    num_accepted = 0
    reason = None
    for row, draft in zip(logits, (*chunk.token_ids[num_own:], None), strict=False):
        token_id = sequence.sampler.sample(row)
        reason = sequence.append(token_id)
        if reason is not FinishReason.STOP:
            token_ids.append(token_id)
        if reason is not None or token_id != draft:
            break
        num_accepted += 1
    sequence.num_drafted_tokens += num_drafted
    sequence.num_accepted_tokens += num_accepted
    return Verified(tuple(token_ids), reason, num_own + num_accepted, num_drafted, num_accepted)
