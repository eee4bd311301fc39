"""The body of `POST /v1/responses`; what the field names mean stands in `parameters.py`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from appliance.api.output_formats import JSONObjectFormat, Schema, TextFormat
from appliance.api.response_input import Input
from appliance.api.schemas import SamplingFields
from appliance.api.tools import ChosenFunction, FunctionDefinition, function_use
from appliance.api.wire_types import NumLogprobs
from appliance.chat.options import CompletionOptions
from appliance.chat.output_format import OutputFormat, json_object, json_schema
from appliance.chat.tools import ToolUse
from appliance.errors import RequestError

_LOGPROBS = "message.output_text.logprobs"

# All but the first are of items that no answer here has.
Included = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON that fits `schema`, enforced whether `strict` or not."""

    name: str
    schema: Schema
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    """What form the text has; `verbosity` is not looked at."""

    format: TextFormat | JSONObjectFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    def output_format(self) -> OutputFormat | None:
        """The form asked for, or None."""
        if isinstance(self.format, SchemaFormat):
            return json_schema(self.format.schema, "text.format.schema")
        if isinstance(self.format, JSONObjectFormat):
            return json_object("text.format")
        return None


class FunctionTool(FunctionDefinition, kw_only=True):
    """A tool; only functions can be called."""

    type: Literal["function"]


class NamedFunction(ChosenFunction, kw_only=True):
    """The one function to be called."""

    type: Literal["function"]


class ResponseRequest(SamplingFields, kw_only=True):
    """The body of `POST /v1/responses`."""

    input: Input
    instructions: str | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    include: list[Included] | None = None
    top_logprobs: NumLogprobs | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    background_options: Any = None
    prompt: Any = None
    truncation: Any = None
    context_management: Any = None
    moderation: Any = None
    image: Any = None
    messages: Any = None
    max_completion_tokens: Any = None
    logprobs: Any = None

    @property
    def with_logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())

    def options(self) -> CompletionOptions:
        """The wishes in the form the completer takes. Raises `RequestError`."""
        if self.top_logprobs and not self.with_logprobs:
            raise RequestError(
                f"top_logprobs is only allowed with include: ['{_LOGPROBS}']", "top_logprobs"
            )
        num_logprobs = (self.top_logprobs or 0) if self.with_logprobs else None
        return self._options(self.max_output_tokens, "max_output_tokens", num_logprobs)

    def tool_use(self) -> ToolUse | None:
        """What the model may do with tools; None if it is shown none. Raises `RequestError`."""
        parallel = self.parallel_tool_calls is not False
        return function_use(self.tools or (), self.tool_choice, parallel=parallel)

    def _stated_form(self) -> list[OutputFormat]:
        form = None if self.text is None else self.text.output_format()
        return [] if form is None else [form]
