"""What is to be measured. Imports nothing heavy: the command line reads it for every verb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

NEW, REPEATED, NEXT_TURN = KINDS = ("new", "repeated", "next-turn")

Language = Literal["en", "zh", "mixed"]
Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    `num_requests` conversations per size and concurrency, or the few more that fill the last wave.
    """

    model: str
    num_requests: int
    prompt_tokens: tuple[int, ...]
    max_tokens: int
    concurrency: tuple[int, ...]
    kinds: tuple[str, ...]
    language: Language
    system_message: bool
    seed: int


class Row(NamedTuple):
    """What the samples of one line of the table have in common."""

    concurrency: int
    prompt_tokens: int
    kind: str
