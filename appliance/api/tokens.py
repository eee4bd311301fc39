"""`POST /v1/tokenize` and `POST /v1/detokenize`, in vLLM's shapes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from appliance.api.messages import ChatMessage, messages_for_template
from appliance.api.schemas import TokenId
from appliance.errors import RequestError
from appliance.service import Service


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text, or a conversation with all that the chat template adds.

    `add_special_tokens` is for texts: with the beginning that a text completion puts in front.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


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


@post("/v1/tokenize", status_code=200, tags=["tokens"])
async def tokenize(data: JSONBody[TokenizeRequest], service: NamedDependency[Service]) -> Tokenized:
    """The token ids of a text, or of the prompt that a conversation becomes."""
    prompt_tokens = service.completer_for(data.model or service.model_name).prompt_tokens
    if (data.prompt is None) == (data.messages is None):
        raise RequestError("either prompt or messages is needed, not both", "prompt")
    # In a thread: a long text takes as long as several tokens of everybody's answers.
    if data.messages is not None:
        messages = messages_for_template(data.messages, service.max_messages)
        token_ids = await asyncio.to_thread(prompt_tokens.of_chat, messages)
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


@post("/v1/detokenize", status_code=200, tags=["tokens"])
async def detokenize(
    data: JSONBody[DetokenizeRequest], service: NamedDependency[Service]
) -> Detokenized:
    """The text of token ids, special tokens by their name."""
    prompt_tokens = service.completer_for(data.model or service.model_name).prompt_tokens
    written = b"".join(prompt_tokens.written(data.tokens))
    return Detokenized(written.decode("utf-8", "replace"))
