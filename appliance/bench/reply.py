"""What came back for one request, when, and the figures that follow from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from appliance.bench.sse import Event

# Where servers put text of the answer: the answer proper, and what a model thinks before it.
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True)
class Reply:
    """One request's answer. Times are ms since just before the request was written.

    `chunk_ms` has the arrival of every SSE chunk that carried text or a part of a tool call.
    `num_tokens` comes from the server's `usage`, or is the number of those chunks (`counted_by`).
    `error` is one line if the request failed at any point, `status` the HTTP status if there was
    one. The figures of a failed reply are what had come until then.
    """

    chunk_ms: tuple[float, ...]
    end_ms: float
    num_tokens: int
    counted_by: Literal["usage", "chunks"]
    num_prompt_tokens: int | None
    num_cached_tokens: int | None
    finish_reason: str | None
    status: int | None
    opened_connection: bool
    error: str | None
    text: str

    @property
    def ttft_ms(self) -> float:
        """Time to first token; there is one in every reply without error."""
        return self.chunk_ms[0]

    @property
    def gaps_ms(self) -> list[float]:
        """ITL: the gaps between neighbouring chunks."""
        return [later - sooner for sooner, later in pairwise(self.chunk_ms)]

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (last - first) / (num_tokens - 1)."""
        if self.num_tokens < 2:
            return None
        return (self.chunk_ms[-1] - self.chunk_ms[0]) / (self.num_tokens - 1)

    @property
    def tokens_per_s(self) -> float:
        """Tokens over the whole time somebody waited for them, TTFT included."""
        return self.num_tokens / self.chunk_ms[-1] * 1000


class StreamError(Exception):
    """The stream says, or shows, that the answer failed; the text is one line."""


@dataclass(slots=True)
class ReplyBuilder:
    """Collects the events of one stream. `done` once the protocol says that nothing more comes."""

    chunk_ms: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    status: int | None = None
    opened_connection: bool = False
    done: bool = False

    def add(self, event: Event, at_ms: float) -> None:
        """Take in `event`, which arrived at `at_ms`. Raises `StreamError`."""
        if event.data == "[DONE]":
            self.done = True
            return
        try:
            data = json.loads(event.data)
        except ValueError:
            raise StreamError(f"an event is no JSON: {event.data[:80]!r}") from None
        if not isinstance(data, dict):
            raise StreamError(f"an event is no object: {event.data[:80]!r}")
        if event.name == "error" or data.get("error"):
            raise StreamError(f"error in the stream: {error_message(data)}")
        if isinstance(data.get("usage"), dict):
            self.usage = data["usage"]
        choices = data.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._add_choice(choices[0], at_ms)

    def _add_choice(self, choice: dict[str, Any], at_ms: float) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            texts = [text for name in _TEXT_FIELDS if isinstance(text := delta.get(name), str)]
            if any(texts) or delta.get("tool_calls"):  # a role alone is no token
                self.chunk_ms.append(at_ms)
            if isinstance(content := delta.get("content"), str):
                self.texts.append(content)
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finish_reason = reason

    def build(self, end_ms: float, error: str | None) -> Reply:
        """The reply. A stream without end or without content is a failure, whatever HTTP says."""
        if error is None and not self.done and self.finish_reason is None:
            error = "the stream ended before the answer did"
        if error is None and not self.chunk_ms:
            error = "the answer was empty"
        details = self.usage.get("prompt_tokens_details")
        num_tokens = _count(self.usage, "completion_tokens")
        return Reply(
            chunk_ms=tuple(self.chunk_ms),
            end_ms=end_ms,
            num_tokens=len(self.chunk_ms) if num_tokens is None else num_tokens,
            counted_by="chunks" if num_tokens is None else "usage",
            num_prompt_tokens=_count(self.usage, "prompt_tokens"),
            num_cached_tokens=_count(details, "cached_tokens"),
            finish_reason=self.finish_reason,
            status=self.status,
            opened_connection=self.opened_connection,
            error=error,
            text="".join(self.texts),
        )


def error_message(body: object) -> str:
    """The message in an error body, in any of the shapes that servers use, on one line."""
    if isinstance(body, dict):
        found = body.get("error") or body.get("message") or body.get("detail") or body
        if isinstance(found, dict) and "message" in found:
            found = found["message"]
        body = found
    return " ".join(str(body).split())[:200]


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None
