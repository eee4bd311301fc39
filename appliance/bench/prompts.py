"""Prompts that no server has seen, about as long as wanted and different from their first word.

A prefix cache reuses a shared *beginning*. So the first words of every conversation, which stand in
the system message, are random, and so is the body after them. The text asks for a long story,
because OpenAI's protocol has no way to forbid a model to stop.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from appliance.bench.plan import Language, Message
from appliance.bench.words import CHINESE, ENGLISH

# Used when a server reports no usage; about right for English and Chinese words alike.
_TOKENS_PER_WORD = 2.0
_FIXED_TOKENS = 60.0


class _Phrases(NamedTuple):
    words: tuple[str, ...]
    joint: str
    system: str
    user: str
    follow_up: str


_ENGLISH = _Phrases(
    ENGLISH,
    ", ",
    "{} {} {}.",
    "Write a very long story about {}.",
    "Go on with the story, and bring in {}.",
)
_CHINESE = _Phrases(
    CHINESE,
    "、",
    "{}{}{}。",
    "写一个很长的故事，提到{}。",
    "请继续写，并且提到{}。",
)
_MIXED = _Phrases(ENGLISH + CHINESE, "、", _ENGLISH.system, _CHINESE.user, _ENGLISH.follow_up)
_PHRASES: dict[str, _Phrases] = {"en": _ENGLISH, "zh": _CHINESE, "mixed": _MIXED}


@dataclass(frozen=True, slots=True)
class Calibration:
    """How many tokens this server makes of a prompt: `fixed_tokens` + words * `tokens_per_word`.

    `measured` is false when the server told no counts and the figures are a guess.
    """

    tokens_per_word: float
    fixed_tokens: float
    measured: bool

    def words_for(self, num_tokens: int) -> int:
        """The number of words that comes closest to `num_tokens`, at least one."""
        return max(1, round((num_tokens - self.fixed_tokens) / self.tokens_per_word))


def calibration(counts: list[tuple[int, int | None]]) -> Calibration:
    """The line through two pairs of (words, prompt tokens that the server counted)."""
    (few, few_tokens), (many, many_tokens) = counts
    assert few < many, "two sizes are needed"
    if few_tokens is None or many_tokens is None or many_tokens <= few_tokens:
        return Calibration(_TOKENS_PER_WORD, _FIXED_TOKENS, measured=False)
    slope = (many_tokens - few_tokens) / (many - few)
    return Calibration(slope, few_tokens - slope * few, measured=True)


class PromptMaker:
    """Makes conversations from a seed: the same seed gives the same prompts in the same order."""

    def __init__(self, language: Language, seed: int, *, system_message: bool) -> None:
        self._phrases = _PHRASES[language]
        self._system_message = system_message
        self._random = random.Random(seed)  # noqa: S311 - prompts, not secrets

    def opening(self, num_words: int) -> list[Message]:
        """A conversation's first messages, with `num_words` random words besides the fixed text."""
        phrases = self._phrases
        beginning = phrases.system.format(*self._words(3))
        text = phrases.user.format(phrases.joint.join(self._words(num_words)))
        if not self._system_message:
            return [{"role": "user", "content": f"{beginning} {text}"}]
        return [{"role": "system", "content": beginning}, {"role": "user", "content": text}]

    def next_turn(self, opening: list[Message], answer: str) -> list[Message]:
        """The conversation after `answer`, with a short new message at its end."""
        return [
            *opening,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": self._phrases.follow_up.format(*self._words(1))},
        ]

    def _words(self, count: int) -> list[str]:
        return self._random.choices(self._phrases.words, k=count)
