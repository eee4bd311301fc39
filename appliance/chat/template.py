"""A model's chat template: messages become the prompt's text.

Templates come with the weights, so they are rendered in Jinja's sandbox, with the names and
settings that transformers gives them (`trim_blocks`, `lstrip_blocks`, loop controls,
`raise_exception`, `strftime_now`, a `tojson` that keeps non-ASCII text, `tools` and `documents`):
see `utils/chat_template_utils.py` in transformers.
"""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.errors import RequestError

Message = Mapping[str, Any]

# Behind a message that goes on, to find the place again in what the template made of it.
_MARK = "<|end of what is written so far: 7b1d|>"


class PromptEnd(enum.Enum):
    """Where a prompt ends, and so what the model goes on with."""

    NEW_MESSAGE = "where the assistant's next message begins"
    LAST_MESSAGE = "in the last message, as far as it is written"
    NOTHING = "behind the last message"


class ChatTemplate:
    """One compiled template. Raises `ValueError` when `text` is none."""

    def __init__(self, text: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from error
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        end: PromptEnd | None = None,
    ) -> str:
        """The prompt, in which `tools` are shown to the model.

        Without `end`, an assistant's message that is the last one goes on.

        Raises `RequestError` when the template refuses the messages (a role it does not know, an
        order it does not take).
        """
        if end is None:
            end = PromptEnd.LAST_MESSAGE if _is_begun(messages) else PromptEnd.NEW_MESSAGE
        if end is not PromptEnd.LAST_MESSAGE:
            return self._render(messages, tools, end is PromptEnd.NEW_MESSAGE)
        *others, last = messages
        begun = {**last, "content": last["content"] + _MARK}
        text, mark, _ = self._render([*others, begun], tools, False).rpartition(_MARK)
        if not mark:
            raise RequestError(
                "the model's chat template does not show the last message as it is, so it cannot "
                "go on with it",
                "messages",
            )
        return text

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str:
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        # A template is a foreign program: for messages it did not expect it raises TypeError and
        # the like as well as Jinja's own errors.
        except Exception as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from error


def _is_begun(messages: Sequence[Message]) -> bool:
    """Whether the last message is an assistant's, and nothing but text."""
    return bool(messages) and (
        messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which would reach the model as &#39; and the like.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)
