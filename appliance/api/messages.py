"""The messages of a conversation, as clients send them and as chat templates expect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from appliance.api.tools import ToolCall
from appliance.errors import RequestError


class ContentPart(msgspec.Struct):
    """One part of a message's content; only `text` parts can be read by this model."""

    type: str
    text: str | None = None


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
            if part.type != "text" or part.text is None:
                raise RequestError(
                    f"messages[{index}].content[{number}] is of type '{part.type}' without text; "
                    "this model reads text only",
                    "messages",
                )
            texts.append(part.text)
        return "".join(texts)


def messages_for_template(
    messages: Sequence[ChatMessage], max_messages: int
) -> list[dict[str, Any]]:
    """A conversation as chat templates expect it. Raises `RequestError`."""
    if len(messages) > max_messages:
        raise RequestError(
            f"the conversation has {len(messages)} messages, this server takes {max_messages} "
            "(server.max_messages); leave out the oldest ones",
            "messages",
        )
    return [message.for_template(index) for index, message in enumerate(messages)]
