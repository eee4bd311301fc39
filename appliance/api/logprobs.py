"""Log-probabilities as OpenAI's two endpoints show them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from appliance.chat.scored_tokens import Candidate, ScoredToken


class TopLogprob(msgspec.Struct, kw_only=True):
    """A token that might stand there; bytes that are no text are written as \\xNN in `token`."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob, kw_only=True):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, kw_only=True):
    """Of a chat's choice, or of a part of it."""

    content: list[TokenLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, kw_only=True):
    """Of a text completion's choice, or of a part of it, in the older form: lists side by side.

    `text_offset` counts characters from the beginning of the answer. `top_logprobs` has the token
    chosen in any case.
    """

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


def chat_logprobs(tokens: Sequence[ScoredToken]) -> ChatLogprobs:
    """In the form of `POST /v1/chat/completions`."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=_text(t.chosen),
                logprob=t.chosen.logprob,
                bytes=list(t.chosen.written),
                top_logprobs=[
                    TopLogprob(token=_text(c), logprob=c.logprob, bytes=list(c.written))
                    for c in t.top
                ],
            )
            for t in tokens
        ]
    )


def text_logprobs(tokens: Sequence[ScoredToken]) -> TextLogprobs:
    """In the form of `POST /v1/completions`."""
    return TextLogprobs(
        text_offset=[t.offset for t in tokens],
        token_logprobs=[t.chosen.logprob for t in tokens],
        tokens=[_key(t.chosen) for t in tokens],
        top_logprobs=[{_key(c): c.logprob for c in (*t.top, t.chosen)} for t in tokens],
    )


def _text(candidate: Candidate) -> str:
    return candidate.written.decode("utf-8", "backslashreplace")


def _key(candidate: Candidate) -> str:
    """The token's text, which names it here; bytes that are no text have OpenAI's prefix."""
    try:
        return candidate.written.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in candidate.written)
