"""One generation inside the engine: its tokens, how far they are computed, how it ended."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Slot
from appliance.engine.prompt_lookup import PromptLookup
from appliance.engine.sampler import Sampler
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.timing import Timing
from appliance.engine.token_constraint import TokenConstraint
from appliance.engine.token_scores import TokenScores
from appliance.errors import ApplianceError


class SequenceStatus(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(enum.Enum):
    """Why a sequence ended; the value is the wire's word, where the wire has one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Progress:
    """How a sequence has fared so far: seconds it waited to be computed, drafts and right ones."""

    queued_s: float
    num_drafted: int
    num_accepted: int


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step gave one sequence. The last one of a sequence has a `finish_reason`.

    `token_ids` are new and part of the answer, `scores` those of each of them if the sequence wants
    any. `error` is set exactly with `FinishReason.ERROR`. `progress` comes with new tokens.
    """

    token_ids: tuple[int, ...]
    num_cached_tokens: int
    finish_reason: FinishReason | None = None
    error: ApplianceError | None = None
    scores: tuple[TokenScores, ...] = ()
    progress: Progress | None = None


Sink = Callable[[StepOutput], None]


class Sequence:
    """A prompt and the answer so far. Written by the engine thread only.

    `timeout_s` counts from now; `sink` takes each step's output. `constraint` is at its beginning
    and follows the answer from then on; no one else uses it. `scratch`, float32 `(vocab_size,)`, is
    the engine thread's: all its sequences' samplers write to it.

    Region map of `token_ids`: `[0, num_cached_tokens)` came from the prefix cache at the first
    admission, `[0, num_computed_tokens)` have their KV in `slot`, and what lies behind is the next
    chunk.
    """

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        *,
        scratch: NDArray[np.float32],
        timeout_s: float,
        sink: Sink,
        constraint: TokenConstraint | None = None,
    ) -> None:
        assert prompt_ids
        self.token_ids: list[int] = list(prompt_ids)
        self.num_prompt_tokens = len(prompt_ids)
        self.params = params
        self.sampler = Sampler(params, prompt_ids, scratch)
        self.timeout_s = timeout_s
        self.timing = Timing(time.monotonic())
        self.deadline = self.timing.submitted_at + timeout_s
        self.sink = sink
        self.constraint = constraint
        self.status = SequenceStatus.WAITING
        self.slot: Slot | None = None
        self.preempted = False
        self.num_cached_tokens = 0
        self.num_computed_tokens = 0
        self.lookup: PromptLookup | None = None
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0

    def progress(self, began_at: float) -> Progress:
        """In a step that began at `began_at`, which may be the first one for it."""
        started_at = began_at if self.timing.started_at is None else self.timing.started_at
        queued_s = started_at - self.timing.submitted_at
        return Progress(queued_s, self.num_drafted_tokens, self.num_accepted_tokens)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_tokens_left(self) -> int:
        """How many tokens the answer may still get."""
        return self.params.max_tokens - self.num_output_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Tokens whose KV is still to be computed: the prompt's rest, then the last token."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def prefilling(self) -> bool:
        """More than the last token is to be computed: a prompt, or what preemption took back."""
        return self.num_pending_tokens > 1

    def append(self, token_id: int) -> FinishReason | None:
        """Take a sampled token into the answer; a reason when the answer ends with it.

        A stop token ends the answer and is no part of it. Raises what the constraint raises.
        """
        if token_id in self.params.stop_token_ids:
            return FinishReason.STOP
        self.token_ids.append(token_id)
        if self.constraint is not None:
            self.constraint.accept(token_id)
            if self.constraint.is_complete:
                return FinishReason.STOP
        if self.num_output_tokens >= self.params.max_tokens:
            return FinishReason.LENGTH
        return None
