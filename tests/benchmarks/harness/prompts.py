"""Prompts as token ids, none beginning like another, so that no prefix is known by accident."""

from __future__ import annotations

import random
from collections.abc import Sequence

from appliance.bench.words import CHINESE, ENGLISH
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer

_QUESTIONS = (
    "What is a {}, and what is it used for?",
    "Write three sentences about a {} and a {}.",
    "How does a {} differ from a {}?",
    "Name five things that belong to a {}.",
    "Tell a short story in which a {} meets a {}.",
    "Explain {} to a child of six.",
    "Write a line of Python that prints {} and {}.",
    "用一句话介绍{}。",
    "{}和{}有什么区别？",
)


class Prompts:
    """Makes prompts from a seed: the same seed gives the same prompts in the same order."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, seed: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._random = random.Random(seed)

    def fresh(self, num_tokens: int) -> list[int]:
        """Exactly `num_tokens` ids of random words."""
        words = self._random.choices(ENGLISH, k=num_tokens + 8)
        text = f"{self._random.getrandbits(32):x} {', '.join(words)}"
        return list(self._tokenizer.encode(text))[:num_tokens]

    def many(self, count: int, shortest: int, longest: int) -> list[list[int]]:
        """`count` fresh prompts of lengths drawn evenly from `shortest` to `longest`."""
        return [self.fresh(self._random.randint(shortest, longest)) for _ in range(count)]

    def question(self) -> list[int]:
        """A chat prompt with a question as people ask them, for answers that mean something."""
        pattern = self._random.choice(_QUESTIONS)
        words: Sequence[str] = CHINESE if not pattern.isascii() else ENGLISH
        text = pattern.format(*self._random.choices(words, k=2))
        name = self._random.choice(ENGLISH).capitalize() + str(self._random.randint(1, 99))
        system = {"role": "system", "content": f"You are {name}, a helpful assistant."}
        rendered = self._template.render([system, {"role": "user", "content": text}])
        return list(self._tokenizer.encode(rendered))
