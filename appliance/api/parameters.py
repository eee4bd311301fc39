"""Every parameter of OpenAI's three endpoints: supported, ignored or refused.

Nothing a client sends is dropped without being named here; the README beside this file prints these
tables and a test keeps them equal. A refused parameter may still be sent with a value that asks for
nothing.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.chat.options import MAX_ANSWERS, MAX_LOGPROBS
from appliance.errors import RequestError


class Support(enum.Enum):
    SUPPORTED = "supported"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One request parameter. `harmless` are the values of a refused one that change nothing."""

    name: str
    support: Support
    note: str
    harmless: tuple[Any, ...] = ()


def _supported(name: str, note: str) -> Parameter:
    return Parameter(name, Support.SUPPORTED, note)


def _ignored(name: str, note: str) -> Parameter:
    return Parameter(name, Support.IGNORED, note)


def _refused(name: str, note: str, *harmless: Any) -> Parameter:
    return Parameter(name, Support.REFUSED, note, harmless)


_COMMON = (
    _supported("model", "must be the served model's id"),
    _supported(
        "max_tokens", "up to `generation.max_tokens_ceiling`; what the context has room for"
    ),
    _supported("temperature", "0 to 2; 0 is greedy"),
    _supported("top_p", "0 to 1"),
    _supported("presence_penalty", "-2 to 2"),
    _supported("frequency_penalty", "-2 to 2"),
    _supported("logit_bias", "token id to -100 … 100"),
    _supported("seed", "same seed, request and cached prefix: same answer"),
    _supported("stop", "one string or up to 16"),
    _supported("stream", "server-sent events, ended by `[DONE]`"),
    _supported(
        "stream_options",
        "`include_usage`, `continuous_usage_stats` (extension); only with `stream`",
    ),
    _supported("n", f"1 to {MAX_ANSWERS}; the prompt is computed once"),
    _supported("top_k", "extension; 0 or less is off"),
    _supported("min_p", "extension; 0 to 1"),
    _supported("repetition_penalty", "extension; 0.01 to 10; 1 is off"),
    _supported("stop_token_ids", "extension; token ids that end the answer"),
    _supported(
        "ignore_eos", "extension; go on to `max_tokens`; no matter where a form is asked for"
    ),
    _supported("response_format", "`text`, `json_object`, `json_schema`, enforced; see below"),
    _supported("guided_json", "extension; a JSON schema, enforced; see below"),
    _supported("guided_regex", "extension; the whole answer matches"),
    _supported("guided_choice", "extension; the answer is one of these texts"),
    _supported("guided_grammar", "extension; GBNF or Lark, see below"),
    _supported(
        "structured_outputs", "extension; `json`, `json_object`, `regex`, `choice`, `grammar`"
    ),
    _supported("timings", "extension; true: where the time went, in the answer or the last chunk"),
    _ignored("user", "no accounts here"),
    _ignored("metadata", "nothing is stored"),
    _ignored("store", "nothing is stored"),
    _ignored("service_tier", "there is one tier"),
    _ignored("safety_identifier", "no accounts here"),
    _ignored("prompt_cache_key", "known prefixes are found by their tokens"),
    _ignored("prompt_cache_options", "known prefixes are found by their tokens"),
    _ignored("prompt_cache_retention", "known prefixes are found by their tokens"),
)

CHAT_PARAMETERS = (
    _supported("messages", "roles system, developer, user, assistant, tool; text parts"),
    _supported("max_completion_tokens", "the newer name of `max_tokens`"),
    _supported(
        "continue_final_message",
        "extension; go on with the last message, which an assistant's is by itself",
    ),
    _supported("add_generation_prompt", "extension; false: go on behind the last message"),
    _supported("logprobs", "true or false; log-softmax of the model's own logits"),
    _supported("top_logprobs", f"0 to {MAX_LOGPROBS}; only with `logprobs`"),
    *_COMMON,
    _supported("tools", "up to 128 functions; see above"),
    _supported("tool_choice", "`none`, `auto`, `required`, a function; the last two are enforced"),
    _supported("parallel_tool_calls", "false: one call at most"),
    _ignored("reasoning_effort", "not a reasoning model"),
    _ignored("verbosity", "the model has no such control"),
    _refused("functions", "deprecated; use `tools`", []),
    _refused("function_call", "deprecated; use `tool_choice`", "none", "auto"),
    _refused("modalities", "text only", ["text"]),
    _refused("audio", "text only"),
    _refused("moderation", "no moderation"),
    _refused("prediction", "no hints; what the prompt holds is guessed by itself"),
    _refused("web_search_options", "no network"),
)

COMPLETION_PARAMETERS = (
    _supported("prompt", "a string, token ids, or a list of either"),
    _supported("logprobs", f"0 to {MAX_LOGPROBS}; log-softmax of the model's own logits"),
    *_COMMON,
    _refused("best_of", "every answer is returned, see `n`", 1),
    _refused("echo", "the prompt is not sent back", False),
    _refused("suffix", "the model goes on with a text, it fills no gap", ""),
)

_OTHERWISE = ("max_tokens", "stream", "stream_options", "n", "response_format", "metadata")

RESPONSE_PARAMETERS = (
    _supported("input", "a text, or items: messages, `function_call`, `function_call_output`"),
    _supported("instructions", "a system message in front of all others"),
    _supported(
        "max_output_tokens", "up to `generation.max_tokens_ceiling`; what the context has room for"
    ),
    _supported("text", "`format`: `text`, `json_object`, `json_schema`, enforced; see above"),
    _supported("tools", "up to 128 functions; a built-in tool is refused; see above"),
    _supported("tool_choice", "`none`, `auto`, `required`, a function; the last two are enforced"),
    _supported("parallel_tool_calls", "false: one call at most"),
    _supported("stream", "named events, numbered; no `[DONE]`"),
    _supported("stream_options", "only with `stream`; events are never padded"),
    _supported(
        "include",
        "`message.output_text.logprobs`; the others are of items that no answer here has",
    ),
    _supported("top_logprobs", f"0 to {MAX_LOGPROBS}; only with the log-probabilities included"),
    _supported("metadata", "stands in the answer; nothing is stored"),
    *(parameter for parameter in _COMMON if parameter.name not in _OTHERWISE),
    _ignored("reasoning", "not a reasoning model"),
    _ignored("max_tool_calls", "it limits built-in tools, and there are none"),
    _ignored("access_programs", "no accounts here"),
    _refused("previous_response_id", "nothing is stored; send the whole conversation as `input`"),
    _refused("conversation", "nothing is stored; send the whole conversation as `input`"),
    _refused("background", "nothing is stored; use `stream`", False),
    _refused("background_options", "nothing runs in the background"),
    _refused("prompt", "no prompts are stored; use `instructions` and `input`"),
    _refused("truncation", "nothing of `input` is dropped", "disabled"),
    _refused("context_management", "nothing of `input` is dropped", []),
    _refused("moderation", "no moderation"),
    _refused("image", "text only"),
    _refused("messages", "it is `input` here"),
    _refused("max_tokens", "it is `max_output_tokens` here"),
    _refused("max_completion_tokens", "it is `max_output_tokens` here"),
    _refused("response_format", "it is `text.format` here"),
    _refused("logprobs", "use `include`", False),
    _refused("n", "a response is one answer", 1),
)


def table(parameters: tuple[Parameter, ...]) -> str:
    """The parameters as a Markdown table, ended by a newline."""
    rows = [("parameter", "here", "meaning, or why"), ("---", "---", "---")]
    for parameter in parameters:
        note = parameter.note
        if parameter.harmless:
            values = ", ".join(f"`{json.dumps(value)}`" for value in parameter.harmless)
            note += f"; taken as {values}"
        rows.append((f"`{parameter.name}`", parameter.support.value, note))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def check_refused(parameters: tuple[Parameter, ...], request: Mapping[str, Any]) -> None:
    """Raise `RequestError` for the first refused parameter that `request` really uses.

    `request` holds the fields of the decoded body; None means absent, as OpenAI's clients send it.
    """
    for parameter in parameters:
        value = request.get(parameter.name)
        if parameter.support is not Support.REFUSED or value is None:
            continue
        # bool is an int in Python: True must not pass as a harmless 1.
        if not any(value == h and type(value) is type(h) for h in parameter.harmless):
            raise RequestError(
                f"'{parameter.name}' is not supported here ({parameter.note}); leave it out",
                parameter.name,
            )
