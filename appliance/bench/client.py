"""Talks OpenAI's streaming chat protocol to one server, and times it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from appliance.bench.errors import BenchError, ServerUnreachableError
from appliance.bench.plan import Message
from appliance.bench.reply import Reply, ReplyBuilder, StreamError, error_message
from appliance.bench.sse import SSEParser

_REFUSED = (400, 422)
_CONNECT_TIMEOUT_S = 10.0


class ChatClient:
    """One server, one model; an async context manager that owns the connections.

    Connections are kept and used again, proxies from the environment are not used, and no
    compression is asked for: each would be measured along with the server. `timeout_s` is the
    longest silence that is waited for.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, timeout_s: float, body: Mapping[str, Any]
    ) -> None:
        headers = {"Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.base_url = versioned(base_url)
        self.asks_usage = True
        self._body = dict(body)
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def served_models(self) -> tuple[str, ...]:
        """The model ids that the server lists; none if it answers but has no such list.

        Raises `ServerUnreachableError`.
        """
        url = f"{self.base_url}/models"
        try:
            response = await self._http.get(url)
        except httpx.TransportError as error:
            raise ServerUnreachableError(
                f"no server answers at {self.base_url}: {_describe(error)}"
            ) from error
        try:
            listed = response.json()["data"] if response.is_success else []
            return tuple(str(model["id"]) for model in listed)
        except (ValueError, KeyError, TypeError):
            return ()

    async def negotiate(self, model: str, messages: list[Message], max_tokens: int) -> Reply:
        """The first request: finds out whether the server takes `stream_options`.

        Raises `BenchError` when it fails with and without them.
        """
        reply = await self.stream(model, messages, max_tokens)
        if reply.status in _REFUSED:
            self.asks_usage = False
            reply = await self.stream(model, messages, max_tokens)
        if reply.error is not None:
            raise BenchError(f"the first request to {self.base_url} failed: {reply.error}")
        return reply

    async def stream(self, model: str, messages: list[Message], max_tokens: int) -> Reply:
        """Send one chat and read its stream to the end. Failures are in the reply, not raised."""
        request = self._request(model, messages, max_tokens)
        builder = ReplyBuilder()

        async def trace(name: str, info: object) -> None:
            if name == "connection.connect_tcp.started":
                builder.opened_connection = True

        request.extensions["trace"] = trace
        error = None
        start = time.perf_counter()
        try:
            await self._exchange(request, builder, start)
        except (httpx.HTTPError, StreamError) as failure:
            error = _describe(failure)
        return builder.build(_ms_since(start), error)

    def _request(self, model: str, messages: list[Message], max_tokens: int) -> httpx.Request:
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "stream": True,
        }
        if self.asks_usage:
            body["stream_options"] = {"include_usage": True}
        return self._http.build_request(
            "POST", f"{self.base_url}/chat/completions", json={**body, **self._body}
        )

    async def _exchange(self, request: httpx.Request, builder: ReplyBuilder, start: float) -> None:
        response = await self._http.send(request, stream=True)
        try:
            builder.status = response.status_code
            if response.status_code != httpx.codes.OK:
                raise StreamError(await _refusal(response))
            parser = SSEParser()
            async for piece in response.aiter_raw():
                at_ms = _ms_since(start)  # one read, one time: what came together was seen together
                for event in parser.feed(piece):
                    builder.add(event, at_ms)
        finally:
            await response.aclose()


def versioned(base_url: str) -> str:
    """`base_url` without a slash at its end, and with /v1 if it has no path of its own.

    Raises `BenchError` when it is no http or https URL.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise BenchError(f"--base-url {base_url!r} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BenchError(f"--base-url {base_url!r}: expected something like http://127.0.0.1:8000")
    trimmed = base_url.rstrip("/")
    return trimmed if url.path.strip("/") else f"{trimmed}/v1"


async def _refusal(response: httpx.Response) -> str:
    text = (await response.aread()).decode("utf-8", errors="replace")
    try:
        message = error_message(json.loads(text))
    except ValueError:
        message = error_message(text)
    return f"HTTP {response.status_code}: {message or response.reason_phrase}"


def _describe(error: Exception) -> str:
    """One line; httpx leaves the text of some errors empty."""
    text = " ".join(str(error).split())
    if isinstance(error, StreamError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
