"""`POST /v1/tokenize` and `POST /v1/detokenize`, in vLLM's shapes."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from appliance.api.documented import DOCUMENTED, SERVED, Documented
from appliance.api.messages import Conversation, Messages
from appliance.api.tools import ToolDefinition, check_shown, tool_use
from appliance.api.wire_types import TokenId
from appliance.errors import RequestError
from appliance.service import Service


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text, or a conversation with all that the chat template adds.

    `add_special_tokens` is for texts: with the beginning that a text completion puts in front. The
    two switches of a conversation mean what they mean to a chat completion.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: list[ToolDefinition] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None

    def conversation(self) -> Conversation | None:
        """The conversation, if it is one. Raises `RequestError` unless it is that or a text."""
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("either prompt or messages is needed, not both", "prompt")
        if self.messages is None:
            return None
        return Conversation(self.messages, self.continue_final_message, self.add_generation_prompt)


class Tokenized(msgspec.Struct, kw_only=True):
    """`token_strs` are there when asked for; bytes that are no text are \\xNN in them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Token ids."""

    model: str | None = None
    tokens: list[TokenId]


class Detokenized(msgspec.Struct):
    """The text of all tokens together."""

    prompt: str


_TOKENIZE = Documented(Tokenized, errors=SERVED, examples={"text": {"prompt": "The sky is"}})
_DETOKENIZE = Documented(Detokenized, errors=SERVED, examples={"ids": {"tokens": [1, 2, 3]}})


@post(
    "/v1/tokenize",
    status_code=200,
    tags=["tokens"],
    opt={DOCUMENTED: _TOKENIZE},
)
async def tokenize(data: JSONBody[TokenizeRequest], service: NamedDependency[Service]) -> Tokenized:
    """The token ids of a text, or of the prompt that a conversation becomes."""
    completer = service.completer_for(data.model or service.model_name)
    prompt_tokens, conversation = completer.prompt_tokens, data.conversation()
    # In a thread: a long text takes as long as several tokens of everybody's answers.
    if conversation is not None:
        messages = conversation.for_template(service.max_messages)
        tools = tool_use(data.tools or (), None, parallel=True)
        if tools is not None:
            check_shown(completer, tools)
        definitions = None if tools is None else tools.definitions()
        token_ids = await asyncio.to_thread(
            prompt_tokens.of_chat, messages, definitions, conversation.end
        )
    else:
        token_ids = await asyncio.to_thread(
            prompt_tokens.of_text, data.prompt or "", add_special_tokens=data.add_special_tokens
        )
    answer = Tokenized(
        count=len(token_ids), max_model_len=prompt_tokens.max_model_len, tokens=list(token_ids)
    )
    if data.return_token_strs:
        written = prompt_tokens.written(token_ids)
        answer.token_strs = [token.decode("utf-8", "backslashreplace") for token in written]
    return answer


@post(
    "/v1/detokenize",
    status_code=200,
    tags=["tokens"],
    opt={DOCUMENTED: _DETOKENIZE},
)
async def detokenize(
    data: JSONBody[DetokenizeRequest], service: NamedDependency[Service]
) -> Detokenized:
    """The text of token ids, special tokens by their name."""
    prompt_tokens = service.completer_for(data.model or service.model_name).prompt_tokens
    written = b"".join(prompt_tokens.written(data.tokens))
    return Detokenized(written.decode("utf-8", "replace"))
