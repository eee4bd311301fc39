"""What bias and penalties make of logits, and the count of what was said that they go by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.engine.sampling_params import SamplingParams


class Penalties:
    """One sequence's: its wishes, the tokens of its prompt, and how often it said which token."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        bias = {i: b for i, b in params.logit_bias.items() if 0 <= i < vocab_size}
        self._params = params
        self._bias_ids = np.array(list(bias), dtype=np.intp)
        self._bias = np.array(list(bias.values()), dtype=np.float32)
        # For the repetition penalty: in prompt or answer. A token may be in it twice.
        prompt = set(prompt_ids) if params.repetition_penalty != 1.0 else set()
        self._known_ids = np.array(list(prompt), dtype=np.intp)
        # Of the answer, with the count of each; `_places` says where a token is in them.
        self._said_ids = np.empty(0, dtype=np.intp)
        self._counts = np.empty(0, dtype=np.float32)
        self._places: dict[int, int] = {}

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change `logits`, float32 `(vocab_size,)`, in place."""
        params = self._params
        logits[self._bias_ids] += self._bias
        if params.repetition_penalty != 1.0:
            known = logits[self._known_ids]
            penalty = np.float32(params.repetition_penalty)
            logits[self._known_ids] = np.where(known > 0, known / penalty, known * penalty)
        if params.presence_penalty or params.frequency_penalty:
            penalties = params.presence_penalty + params.frequency_penalty * self._counts
            logits[self._said_ids] -= penalties

    def count(self, token_id: int) -> None:
        """Take `token_id` for said once more."""
        place = self._places.setdefault(token_id, len(self._said_ids))
        if place == len(self._said_ids):
            self._said_ids = np.append(self._said_ids, token_id)
            self._known_ids = np.append(self._known_ids, token_id)
            self._counts = np.append(self._counts, np.float32(0))
        self._counts[place] += 1
