"""Which tokens a step gives a sequence: one, and one more for every draft that was right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Chunk
from appliance.engine.sequence import FinishReason, Sequence, StepOutput
from appliance.engine.token_constraint import AllowedTokens
from appliance.engine.token_scores import TokenScores, score
from appliance.errors import ApplianceError


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of one chunk.

    `token_ids` are new in the answer; `finish_reason` says why it ends with them, None that it goes
    on. `error` is set exactly with `FinishReason.ERROR`. The chunk's first `num_kept` tokens are
    the sequence's: their KV is to be kept. `scores` are those of `token_ids`, if they are wanted.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    num_kept: int
    num_drafted: int
    num_accepted: int
    error: ApplianceError | None = None
    scores: tuple[TokenScores, ...] = ()

    def output(self, sequence: Sequence, began_at: float) -> StepOutput:
        """What the reader of `sequence` is told of it; the step began at `began_at`."""
        return StepOutput(
            self.token_ids,
            sequence.num_cached_tokens,
            self.finish_reason,
            self.error,
            self.scores,
            sequence.progress(began_at),
        )


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
    their order, so that seed and penalties mean the same with drafts and without. A constraint sees
    each token of the answer once and never a draft, so nothing of it has to be taken back.
    """
    num_drafted = max(0, chunk.num_logits - 1)
    num_own = len(chunk.token_ids) - num_drafted
    num_before = len(sequence.token_ids)
    num_accepted = 0
    reason: FinishReason | None = None
    failure: ApplianceError | None = None
    for row, draft in zip(logits, (*chunk.token_ids[num_own:], None), strict=False):
        try:
            token_id, reason = _next_token(sequence, row)
        except ApplianceError as error:
            reason, failure = FinishReason.ERROR, error
            break
        if reason is not None or token_id != draft:
            break
        num_accepted += 1
    sequence.num_drafted_tokens += num_drafted
    sequence.num_accepted_tokens += num_accepted
    token_ids = tuple(sequence.token_ids[num_before:])
    num_kept = num_own + num_accepted
    num_top = sequence.params.num_logprobs
    scores = () if num_top is None else score(logits, token_ids, num_top)
    return Verified(token_ids, reason, num_kept, num_drafted, num_accepted, failure, scores)


def _next_token(sequence: Sequence, logits: NDArray[np.float32]) -> tuple[int, FinishReason | None]:
    """The token chosen from one position's logits, and why the answer ends with it, if it does."""
    constraint = sequence.constraint
    allowed = None if constraint is None else AllowedTokens(constraint.allowed(), len(logits))
    token_id = sequence.sampler.sample(logits, allowed)
    return token_id, sequence.append(token_id)
