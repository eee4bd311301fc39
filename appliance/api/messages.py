"""Conversations as clients send them, and as chat templates expect them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from appliance.api.tools import ToolCall
from appliance.chat.template import PromptEnd
from appliance.errors import RequestError

# The type of others is read, to say what is wrong with them.
PartType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["text", "refusal"]})]


class ContentPart(msgspec.Struct):
    """One part of a message's content; only texts can be read by this model.

    An assistant's `refusal`, which this service never writes and others do, is a text.
    """

    type: PartType
    text: str | None = None
    refusal: str | None = None

    @property
    def words(self) -> str | None:
        """The part's text; None if it is none."""
        return {"text": self.text, "refusal": self.refusal}.get(self.type)


class ChatMessage(msgspec.Struct, omit_defaults=True):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def for_template(self, index: int) -> dict[str, Any]:
        """As chat templates expect it: `content` a string, `developer` as `system`.

        Raises `RequestError` for a part that is no text; `index` names the message.
        """
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self._text(index),
        }
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        for key in ("name", "tool_call_id"):
            if value := getattr(self, key):
                message[key] = value
        return message

    def _text(self, index: int) -> str:
        if isinstance(self.content, str):
            return self.content
        texts = []
        for number, part in enumerate(self.content or ()):
            words = part.words
            if words is None:
                raise RequestError(
                    f"messages[{index}].content[{number}] is a part of type '{part.type}' without "
                    "a text; this model reads text only, leave it out",
                    "messages",
                )
            texts.append(words)
        return "".join(texts)


def check_number(num_messages: int, max_messages: int, param: str) -> None:
    """Raise `RequestError` for a conversation, the request's `param`, that is too long."""
    if num_messages > max_messages:
        raise RequestError(
            f"the conversation has {num_messages} messages, this server takes {max_messages} "
            "(server.max_messages); leave out the oldest ones",
            param,
        )


Messages = Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, and where the model goes on.

    By itself it goes on with an assistant's message that is the last one, and otherwise begins one.
    The two switches, vLLM's extensions, say so explicitly.
    """

    messages: list[ChatMessage]
    continue_final_message: bool | None
    add_generation_prompt: bool | None

    def for_template(self, max_messages: int) -> list[dict[str, Any]]:
        """The messages as chat templates expect them. Raises `RequestError`."""
        check_number(len(self.messages), max_messages, "messages")
        return [message.for_template(index) for index, message in enumerate(self.messages)]

    @property
    def end(self) -> PromptEnd | None:
        """Where the model goes on, if the client says so. Raises `RequestError`."""
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise RequestError(
                    "continue_final_message and add_generation_prompt exclude each other",
                    "add_generation_prompt",
                )
            if self.messages[-1].role != "assistant":
                raise RequestError(
                    f"continue_final_message needs an assistant's message at the end, there is "
                    f"one of the role {self.messages[-1].role}",
                    "continue_final_message",
                )
            return PromptEnd.LAST_MESSAGE
        if self.add_generation_prompt is False:
            return PromptEnd.NOTHING
        is_told = self.continue_final_message is False or self.add_generation_prompt
        return PromptEnd.NEW_MESSAGE if is_told else None
