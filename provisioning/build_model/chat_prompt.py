"""Renders a chat for the quality gate and the golden prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from provisioning.build_model.errors import UnsupportedModelError
from provisioning.build_model.tokenizer_files import TextSide

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def chat_prompt(text: TextSide, tokenizer: Tokenizer, user: str) -> tuple[str, list[int]]:
    """The rendered prompt for one user message, and its token ids."""
    bos = "" if text.bos_token_id is None else tokenizer.id_to_token(text.bos_token_id)
    eos = tokenizer.id_to_token(text.eos_token_ids[0])
    if bos is None or eos is None:
        raise UnsupportedModelError(
            f"token {text.bos_token_id} or {text.eos_token_ids[0]} is not in the tokenizer"
        )
    prompt = render_chat(text.chat_template, user, bos_token=bos, eos_token=eos)
    return prompt, tokenizer.encode(prompt, add_special_tokens=False).ids


def render_chat(template: str, user: str, *, bos_token: str = "", eos_token: str = "") -> str:
    """The prompt text for one user message, up to where the assistant's answer begins.

    The template comes from a stranger, so it runs in Jinja's sandbox. Raises
    `UnsupportedModelError` when it cannot be rendered.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    # A golden prompt must not change with the day it is rendered.
    environment.globals["strftime_now"] = lambda _format: "2025-01-01"
    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": user}],
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UnsupportedModelError(f"the chat template cannot be rendered: {error}") from error


def _raise(message: str) -> NoReturn:
    raise ValueError(message)
