"""One answer as a worker told it, and the figures that follow from its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """Times in milliseconds since the verb began; one per token, or per arrival over HTTP.

    `margins` has, where it was asked for, best minus second best logit of each token.
    """

    start_ms: float
    times_ms: tuple[float, ...]
    token_ids: tuple[int, ...]
    num_tokens: int
    num_cached_tokens: int | None
    margins: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Answer:
        """From the protocol's object. Raises `ValueError` for an answer without a token."""
        if not data["times_ms"]:
            raise ValueError("an answer without a token")
        return cls(
            start_ms=data["start_ms"],
            times_ms=tuple(data["times_ms"]),
            token_ids=tuple(data["token_ids"]),
            num_tokens=data["num_tokens"],
            num_cached_tokens=data["num_cached_tokens"],
            margins=tuple(data.get("margins", ())),
        )

    @property
    def ttft_ms(self) -> float:
        """Submitted to first token."""
        return self.times_ms[0] - self.start_ms

    @property
    def per_token_ms(self) -> float:
        """TPOT: (last - first) / (tokens - 1); of an answer of at least two tokens."""
        return (self.times_ms[-1] - self.times_ms[0]) / (self.num_tokens - 1)

    @property
    def gaps_ms(self) -> list[float]:
        """ITL: gaps between neighbouring arrivals."""
        return [later - sooner for sooner, later in pairwise(self.times_ms)]


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """Tokens of all answers over the time from the first submission to the last token."""
    begun = min(answer.start_ms for answer in answers)
    ended = max(answer.times_ms[-1] for answer in answers)
    return sum(answer.num_tokens for answer in answers) / (ended - begun) * 1000


def tokens_per_s_together(answers: Sequence[Answer]) -> float:
    """Tokens of all answers over the time while all of them decode: no prefill, no tail.

    Answers that never decode all at once are taken as a whole, see `tokens_per_s`.
    """
    first = max(answer.times_ms[0] for answer in answers)
    last = min(answer.times_ms[-1] for answer in answers)
    num_tokens = sum(first < at <= last for answer in answers for at in answer.times_ms)
    if last <= first or num_tokens < len(answers):
        return tokens_per_s(answers)
    return num_tokens / (last - first) * 1000
