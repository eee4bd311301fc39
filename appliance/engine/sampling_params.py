"""How the next token is chosen and when a sequence ends, checked once and then trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from appliance.errors import RequestError

MIN_REPETITION_PENALTY = 0.01


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One request's wishes. Raises `RequestError`, with the field's name, for a value out of range.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 leave every token in.
    `presence_penalty` and `frequency_penalty` look at the answer so far, `repetition_penalty` (1:
    off) at prompt and answer. `seed` None draws a fresh one. `stop_token_ids` end the answer and
    are not part of it; the model's own end tokens are added unless `ignore_eos`. `num_logprobs` is
    how many likely tokens are told at each place, besides the one chosen; None: not even that one.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}, must be at least 1", "max_tokens")
        _in_range("temperature", self.temperature, 0, 2)
        _in_range("top_p", self.top_p, 0, 1)
        _in_range("min_p", self.min_p, 0, 1)
        _in_range("presence_penalty", self.presence_penalty, -2, 2)
        _in_range("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.top_k < 0:
            raise RequestError(f"top_k is {self.top_k}, must be 0 (off) or more", "top_k")
        # A logit divided by much less than that would be infinite, and none could be chosen.
        _in_range("repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, 10)
        for token_id, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise RequestError(
                    f"logit_bias of token {token_id} is {bias:g}, must be from -100 to 100",
                    "logit_bias",
                )
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise RequestError(f"seed is {self.seed}, must fit 64 bits", "seed")

    def for_answer(self, index: int) -> SamplingParams:
        """For one of several answers to a prompt: a seed of its own, the first one's as it is."""
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=(self.seed + index) % 2**64)

    @property
    def greedy(self) -> bool:
        """Always the most likely token; a `top_k` of 1 and a `top_p` of 0 mean the same."""
        return self.temperature < 1e-5 or self.top_k == 1 or self.top_p <= 0

    @property
    def changes_logits(self) -> bool:
        """Whether anything has to be added to or taken from the logits before a token is chosen."""
        return bool(
            self.logit_bias
            or self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
        )


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high) or math.isnan(value):
        raise RequestError(f"{name} is {value:g}, must be from {low:g} to {high:g}", name)
