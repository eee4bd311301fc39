"""What `POST /v1/responses` is to answer: items, and the messages that chat templates expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from appliance.api.messages import check_number
from appliance.api.tools import CalledFunction, ToolCall
from appliance.errors import RequestError

# Where a part of each type has its text; no other part can be read by this model.
_TEXT_OF = {"input_text": "text", "output_text": "text", "refusal": "refusal"}


# The type of others is read, to say what is wrong with them.
PartType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(_TEXT_OF)})]


class InputPart(msgspec.Struct):
    """A part of a content: `input_text`, `output_text` or `refusal`."""

    type: PartType
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct):
    """A message, a call that the model made, or what that call gave.

    A message has `role` and `content`, a call `call_id`, `name` and `arguments`, its output
    `call_id` and `output`. Reasoning, which only other models write, is left out.
    """

    type: (
        Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"]
        | None
    ) = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


Input = str | Annotated[list[InputItem], msgspec.Meta(min_length=1)]


def messages_of(given: Input, instructions: str | None, max_messages: int) -> list[dict[str, Any]]:
    """`given` behind `instructions`, as chat templates expect them. Raises `RequestError`.

    What the model wrote in one turn, text and calls, is one message again, so that its next turn
    begins with what is known.
    """
    items = [InputItem(role="user", content=given)] if isinstance(given, str) else given
    check_number(len(items), max_messages, "input")
    conversation = _Conversation()
    if instructions:
        conversation.add_message("system", instructions)
    for index, item in enumerate(items):
        conversation.add(item, f"input[{index}]")
    if not conversation.messages:
        raise RequestError("input holds nothing but reasoning, a message is needed", "input")
    return conversation.messages


class _Conversation:
    """Messages as they add up; `place` is where an item stands in the request."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._call_ids: set[str] = set()

    def add(self, item: InputItem, place: str) -> None:
        if item.type == "function_call":
            self._add_call(item, place)
        elif item.type == "function_call_output":
            self._add_output(item, place)
        elif item.type == "item_reference" or (item.type is None and _is_bare(item)):
            raise RequestError(
                f"{place} refers to an item that was stored, but nothing is stored here; send the "
                "item itself",
                "input",
            )
        elif item.type != "reasoning":
            role = _needed(item.role, f"{place}.role")
            self.add_message(role, _text(item.content, f"{place}.content"))

    def add_message(self, role: str, text: str) -> None:
        self.messages.append({"role": "system" if role == "developer" else role, "content": text})

    def _add_call(self, item: InputItem, place: str) -> None:
        name = _needed(item.name, f"{place}.name")
        arguments = _needed(item.arguments, f"{place}.arguments")
        call_id = _needed(item.call_id, f"{place}.call_id")
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add_message("assistant", "")
        call = ToolCall(id=call_id, function=CalledFunction(name, arguments))
        self.messages[-1].setdefault("tool_calls", []).append(call.for_template())
        self._call_ids.add(call_id)

    def _add_output(self, item: InputItem, place: str) -> None:
        call_id = _needed(item.call_id, f"{place}.call_id")
        if call_id not in self._call_ids:
            raise RequestError(
                f"{place} is the output of the call '{call_id}', but no function_call before it "
                "has this call_id; send the call, too",
                "input",
            )
        output = _text(_needed(item.output, f"{place}.output"), f"{place}.output")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": output})


def _is_bare(item: InputItem) -> bool:
    """Whether there is an id and nothing else, which is a reference whose type was left out."""
    return item.id is not None and item.role is None and item.content is None


def _needed(value: Any, place: str) -> Any:
    if value is None:
        raise RequestError(f"{place}: needed, but missing", "input")
    return value


def _text(content: str | Sequence[InputPart] | None, place: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content or ()):
        text = getattr(part, _TEXT_OF.get(part.type, ""), None)
        if text is None:
            raise RequestError(
                f"{place}[{number}] is a part of type '{part.type}' without a text; this model "
                f"reads {', '.join(_TEXT_OF)} only, leave it out",
                "input",
            )
        texts.append(text)
    return "".join(texts)
