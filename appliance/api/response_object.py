"""The answer of `POST /v1/responses`, as far as it has come, and the items that it consists of."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from appliance.api.logprobs import TokenLogprob
from appliance.api.output_formats import TextFormat
from appliance.api.response_request import FunctionTool, NamedFunction, ResponseRequest, TextConfig
from appliance.api.timings import Timings
from appliance.chat.completion import Completion
from appliance.errors import RequestError

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, tag_field="type", tag="output_text", kw_only=True):
    """A message's text; `logprobs` are empty unless asked for."""

    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class OutputMessage(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """The assistant's message; at most one, and in front of all calls."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FunctionCall(msgspec.Struct, tag_field="type", tag="function_call", kw_only=True):
    """A call; its output is to come back with the same `call_id`."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | FunctionCall


class InputTokensDetails(msgspec.Struct):
    """`cached_tokens`: those whose KV was known and not computed again."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    """This is no reasoning model."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, kw_only=True):
    """Token counts of one request."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct):
    """Why the answer was cut."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(msgspec.Struct):
    """What went wrong behind the first text, in the few words that this endpoint has for it."""

    code: Literal["server_error"]
    message: str


class ResponseObject(msgspec.Struct, kw_only=True):
    """The answer. What the request left open and the service decides is null."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    temperature: float | None
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | NamedFunction
    tools: list[FunctionTool]
    top_logprobs: int
    top_p: float | None
    usage: ResponseUsage | None = None
    background: Literal[False] = False
    max_tool_calls: None = None
    previous_response_id: None = None
    reasoning: None = None
    store: Literal[False] = False
    truncation: Literal["disabled"] = "disabled"
    user: None = None
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


def asked(data: ResponseRequest) -> dict[str, Any]:
    """The fields of the answer that say again what was asked for. Raises `RequestError`."""
    return {
        "instructions": data.instructions,
        "max_output_tokens": data.max_output_tokens,
        "metadata": data.metadata or {},
        "parallel_tool_calls": data.parallel_tool_calls is not False,
        "temperature": data.temperature,
        "text": TextConfig((data.text.format if data.text else None) or TextFormat()),
        "tool_choice": data.tool_choice or "auto",
        "tools": _encoded(data.tools or []),
        "top_logprobs": data.top_logprobs or 0,
        "top_p": data.top_p,
    }


def _encoded(tools: list[FunctionTool]) -> msgspec.Raw:
    """As they are sent, up to three times in a stream.

    Schemas nobody enforces may be nested so deep that they can just be read and not be written.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(tools))
    except RecursionError:
        raise RequestError("tools: the parameters are nested too deep", "tools") from None


def response_usage(completion: Completion) -> ResponseUsage:
    """What the answer has used so far."""
    num_input, num_output = completion.num_prompt_tokens, completion.num_output_tokens
    return ResponseUsage(
        input_tokens=num_input,
        input_tokens_details=InputTokensDetails(completion.num_cached_tokens),
        output_tokens=num_output,
        output_tokens_details=OutputTokensDetails(),
        total_tokens=num_input + num_output,
    )
