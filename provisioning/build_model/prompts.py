"""The quality gate's texts: prompts, each with the answer over whose tokens models are compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioning.build_model.chat_prompt import chat_prompt
from provisioning.build_model.tokenizer_files import TextSide

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROMPTS = Path(__file__).with_name("prompts.json")
MAX_ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Prompt:
    """`kind` is english, chinese, code or chat; a chat prompt is rendered by the chat template."""

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Token ids of prompt and answer, joined; the last `num_answer` of them are the answer's."""

    ids: tuple[int, ...]
    num_answer: int


def read_prompts() -> tuple[Prompt, ...]:
    """All prompts of `prompts.json`, in order."""
    entries = json.loads(PROMPTS.read_text(encoding="utf-8"))
    return tuple(Prompt(**entry) for entry in entries)


def prompts_sha256() -> str:
    """Changes when a prompt changes."""
    return hashlib.sha256(PROMPTS.read_bytes()).hexdigest()


def encode_prompt(prompt: Prompt, tokenizer: Tokenizer, text: TextSide) -> PromptIds:
    """Ids of `prompt`; the answer is encoded on its own, so that its first token is its own."""
    if prompt.kind == "chat":
        _, before = chat_prompt(text, tokenizer, prompt.prompt)
    else:
        before = tokenizer.encode(prompt.prompt).ids
    answer = tokenizer.encode(prompt.answer, add_special_tokens=False).ids[:MAX_ANSWER_TOKENS]
    return PromptIds((*before, *answer), len(answer))
