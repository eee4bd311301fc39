"""Tools on the wire: what a request offers and asks for, and the calls that are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from appliance.chat.completer import Completer
from appliance.chat.tool_parser import CallDelta
from appliance.chat.tools import Tool, ToolUse
from appliance.errors import RequestError

MAX_TOOLS = 128

FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}(?!\n)$")]


class FunctionDefinition(msgspec.Struct):
    """A function that the model may call; no `parameters` are no arguments."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(msgspec.Struct):
    """A tool; only functions can be called."""

    type: Literal["function"]
    function: FunctionDefinition


class ChosenFunction(msgspec.Struct):
    """The name of a function."""

    name: str


class NamedToolChoice(msgspec.Struct):
    """The one function to be called."""

    type: Literal["function"]
    function: ChosenFunction


class CalledFunction(msgspec.Struct):
    """A function's name and its arguments, JSON in a string; an object is taken, too."""

    name: str
    arguments: str | dict[str, Any]


class ToolCall(msgspec.Struct, kw_only=True):
    """One call, in an answer or in the conversation so far."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: the arguments as an object, if they are one."""
        arguments = self.function.arguments
        if isinstance(arguments, str):
            try:
                arguments = msgspec.json.decode(arguments, type=dict[str, Any])
            except (msgspec.DecodeError, RecursionError):
                pass  # what some model wrote is shown as it wrote it
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class FunctionFragment(msgspec.Struct, omit_defaults=True):
    """A piece of a call: the name in its first one."""

    name: str | None = None
    arguments: str | None = None


class ToolCallFragment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A piece of the `index`-th call; `id` and `type` in its first one."""

    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionFragment


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


def tool_use(
    definitions: Sequence[ToolDefinition], choice: ToolChoice | None, *, parallel: bool
) -> ToolUse | None:
    """What the model may do with tools; None if it is shown none. Raises as `function_use`."""
    return function_use(
        [definition.function for definition in definitions],
        choice.function if isinstance(choice, NamedToolChoice) else choice,
        parallel=parallel,
        place=".function",
    )


def function_use(
    functions: Sequence[FunctionDefinition],
    choice: str | ChosenFunction | None,
    *,
    parallel: bool,
    place: str = "",
) -> ToolUse | None:
    """What the model may do with functions; None if it is shown none.

    `choice` is none, auto, required or a function; `place` is where in one of the request's `tools`
    the function stands. Raises `RequestError` for functions that cannot be told apart, and a choice
    that is not there.
    """
    tools = _tools(functions, place)
    if choice == "none" or (choice in (None, "auto") and not tools):
        return None
    forced = _forced(tools, choice)
    # As OpenAI has it: a function that is named is called exactly once. A small model that is let
    # write the same call again does.
    parallel = parallel and (choice is None or isinstance(choice, str))
    return ToolUse(tools, forced, parallel, parameters_at=f"{place}.parameters")


def check_shown(completer: Completer, tools: ToolUse) -> None:
    """Raise `RequestError` when the model cannot be shown tools."""
    if not completer.shows_tools:
        raise RequestError(
            f"{len(tools.tools)} tools given, but this model's chat template shows it none; leave "
            "them out, or serve a model that calls tools as Qwen2.5 does",
            "tools",
        )


def fragment(delta: CallDelta) -> ToolCallFragment:
    """A piece of a call as a stream has it."""
    if delta.name is None:
        function = FunctionFragment(arguments=delta.arguments)
        return ToolCallFragment(index=delta.index, function=function)
    function = FunctionFragment(name=delta.name, arguments=delta.arguments)
    return ToolCallFragment(index=delta.index, id=delta.id, type="function", function=function)


def whole_calls(deltas: Sequence[CallDelta]) -> list[ToolCall]:
    """The calls that all pieces of an answer make together."""
    calls: list[ToolCall] = []
    arguments: list[list[str]] = []
    for delta in deltas:
        if delta.name is not None:
            calls.append(ToolCall(id=delta.id, function=CalledFunction(delta.name, "")))
            arguments.append([])
        arguments[delta.index].append(delta.arguments)
    for call, texts in zip(calls, arguments, strict=True):
        call.function.arguments = "".join(texts)
    return calls


def _forced(tools: tuple[Tool, ...], choice: str | ChosenFunction | None) -> tuple[Tool, ...]:
    if not tools:
        raise RequestError("tool_choice asks for a call, but there are no tools", "tool_choice")
    if not isinstance(choice, ChosenFunction):
        return tools if choice == "required" else ()
    named = tuple(tool for tool in tools if tool.name == choice.name)
    if not named:
        raise RequestError(
            f"tool_choice names '{choice.name}', which is none of the tools", "tool_choice"
        )
    return named


def _tools(functions: Sequence[FunctionDefinition], place: str) -> tuple[Tool, ...]:
    if len(functions) > MAX_TOOLS:
        raise RequestError(f"{len(functions)} tools given, at most {MAX_TOOLS} taken", "tools")
    tools: dict[str, Tool] = {}
    for index, function in enumerate(functions):
        parameters = function.parameters or {"type": "object", "properties": {}}
        if function.name in tools:
            raise RequestError(f"tools[{index}]: there are two of '{function.name}'", "tools")
        if parameters.get("type", "object") != "object":
            raise RequestError(
                f"tools[{index}]{place}.parameters: must be the schema of an object", "tools"
            )
        tools[function.name] = Tool(function.name, function.description, parameters)
    return tuple(tools.values())
