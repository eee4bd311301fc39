"""What clients send and get: OpenAI's wire, as msgspec structs.

Request keys that nobody knows are tolerated, as OpenAI's own server does; those it knows stand in
`parameters.py`. `Any` marks a field that is only looked at to refuse it.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec

from appliance.api.messages import Conversation, Messages
from appliance.api.output_formats import FormatFields
from appliance.api.tools import ToolChoice, ToolDefinition, tool_use
from appliance.api.wire_types import (
    LogitBias,
    NumLogprobs,
    Penalty,
    Positive,
    RepetitionPenalty,
    Seed,
    Share,
    StopString,
    StopStrings,
    Temperature,
    TokenId,
)
from appliance.chat.options import MAX_ANSWERS, CompletionOptions
from appliance.chat.tools import ToolUse
from appliance.errors import RequestError


class StreamOptions(msgspec.Struct):
    """`include_usage`: one more chunk at the end, with the token counts and no choices.

    With `continuous_usage_stats`, vLLM's extension, every chunk has the counts so far.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(FormatFields, kw_only=True):
    """What both endpoints take; ranges and meanings stand in `parameters.py`."""

    model: str
    max_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: int | None = None
    min_p: Share | None = None
    repetition_penalty: RepetitionPenalty | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_ANSWERS)] | None = None
    timings: bool | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_every_chunk(self) -> bool:
        return self.include_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def _options(
        self, max_tokens: int | None, max_tokens_name: str, num_logprobs: int | None
    ) -> CompletionOptions:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed with stream", "stream_options")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return CompletionOptions(
            n=self.n or 1,
            max_tokens=max_tokens,
            max_tokens_name=max_tokens_name,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_token_ids(self.logit_bias or {}),
            seed=self.seed,
            stop=tuple(stop),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            num_logprobs=num_logprobs,
        )


class ChatCompletionRequest(SamplingFields, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Messages
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    moderation: Any = None
    prediction: Any = None
    web_search_options: Any = None

    @property
    def conversation(self) -> Conversation:
        """What there is to answer, and where the answer begins."""
        return Conversation(self.messages, self.continue_final_message, self.add_generation_prompt)

    def options(self) -> CompletionOptions:
        """The wishes in the form the completer takes. Raises `RequestError`."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs is only allowed with logprobs: true", "top_logprobs")
        num_logprobs = (self.top_logprobs or 0) if self.logprobs else None
        if self.max_completion_tokens is not None:
            return self._options(self.max_completion_tokens, "max_completion_tokens", num_logprobs)
        return self._options(self.max_tokens, "max_tokens", num_logprobs)

    def tool_use(self) -> ToolUse | None:
        """What the model may do with tools; None if it is shown none. Raises `RequestError`."""
        parallel = self.parallel_tool_calls is not False
        return tool_use(self.tools or (), self.tool_choice, parallel=parallel)


class CompletionRequest(SamplingFields, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: NumLogprobs | None = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    def options(self) -> CompletionOptions:
        """The wishes in the form the completer takes. Raises `RequestError`."""
        return self._options(self.max_tokens, "max_tokens", self.logprobs)

    def prompts(self) -> list[str | list[int]]:
        """One entry per answer: texts, or token ids. Raises `RequestError` when they are mixed."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt):
            return [cast("list[int]", self.prompt)]
        if any(isinstance(item, int) for item in self.prompt):
            raise RequestError("prompt mixes token ids with texts or lists", "prompt")
        return cast("list[str | list[int]]", self.prompt)


class ErrorDetail(msgspec.Struct):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every answer that is an error, and the data of an error event in a stream."""

    error: ErrorDetail


def _token_ids(bias: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): value for token_id, value in bias.items()}
    except ValueError:
        raise RequestError("the keys of logit_bias must be token ids", "logit_bias") from None
