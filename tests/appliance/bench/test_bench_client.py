"""One request against a real server with known timings."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from scripted_server import Script, ScriptedServer, scripted, slowed

from appliance.bench.client import ChatClient, versioned
from appliance.bench.errors import BenchError, ServerUnreachableError
from appliance.bench.reply import Reply

Result = TypeVar("Result")
MESSAGES = [{"role": "user", "content": "hello there"}]


def with_client(
    url: str,
    use: Callable[[ChatClient], Awaitable[Result]],
    *,
    api_key: str | None = None,
    timeout_s: float = 10,
) -> Result:
    async def main() -> Result:
        body = {"temperature": 0}
        async with ChatClient(url, api_key=api_key, timeout_s=timeout_s, body=body) as client:
            return await use(client)

    return asyncio.run(main())


def ask(server: ScriptedServer, max_tokens: int = 100) -> Reply:
    return with_client(server.url, lambda client: client.stream("m", MESSAGES, max_tokens))


def test_measured_times_are_the_scripted_ones() -> None:
    with scripted(Script(first_token_s=0.1, gap_s=0.02, num_tokens=11)) as server:
        reply = ask(server)
    assert reply.error is None
    assert slowed(reply.ttft_ms, 100)  # the role chunk came at once and must not count
    assert reply.tpot_ms is not None
    assert slowed(reply.tpot_ms, 20)
    assert slowed(sorted(reply.gaps_ms)[5], 20)
    assert len(reply.gaps_ms) == 10
    assert (reply.num_tokens, reply.counted_by) == (11, "usage")
    assert reply.num_prompt_tokens == 20 + 2 * 2
    assert reply.text == "词 " * 11


def test_several_tokens_in_a_chunk() -> None:
    with scripted(Script(gap_s=0.04, num_tokens=9, tokens_per_chunk=4)) as server:
        reply = ask(server)
    assert len(reply.chunk_ms) == 3
    assert slowed(max(reply.gaps_ms), 40)
    assert reply.tpot_ms is not None
    assert slowed(reply.tpot_ms, 80 / 8)


def test_what_is_sent() -> None:
    with scripted() as server:
        with_client(server.url, lambda c: c.stream("m", MESSAGES, 5), api_key="secret")
    assert server.chats == [
        {
            "model": "m",
            "messages": MESSAGES,
            "max_tokens": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.headers[0]["accept-encoding"] == "identity"


def test_connections_are_used_again() -> None:
    async def three(client: ChatClient) -> list[Reply]:
        return [await client.stream("m", MESSAGES, 2) for _ in range(3)]

    with scripted() as server:
        replies = with_client(server.url, three)
    assert server.num_connections == 1
    assert [reply.opened_connection for reply in replies] == [True, False, False]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_stream_options(status: int) -> None:
    async def negotiate(client: ChatClient) -> tuple[bool, Reply, Reply]:
        first = await client.negotiate("m", MESSAGES, 5)
        return client.asks_usage, first, await client.stream("m", MESSAGES, 5)

    with scripted(Script(refuses_stream_options=status)) as server:
        asks_usage, first, second = with_client(server.url, negotiate)
    assert not asks_usage
    assert (first.error, second.error) == (None, None)
    assert (second.num_tokens, second.counted_by) == (5, "chunks")
    assert len(server.headers) == 3  # refused once, not every time


def test_a_server_that_takes_stream_options_and_tells_nothing() -> None:
    with scripted(Script(tells_usage=False)) as server:
        reply = ask(server)
    assert (reply.num_tokens, reply.counted_by, reply.num_prompt_tokens) == (8, "chunks", None)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("429", "HTTP 429: too many requests"),
        ("die", "RemoteProtocolError"),
        ("error", "error in the stream: out of memory"),
        ("stop", "the stream ended before the answer did"),
        ("empty", "the answer was empty"),
    ],
)
def test_failures_are_in_the_reply(failure: str, expected: str) -> None:
    with scripted(Script(failures={0: failure})) as server:
        reply = ask(server)
    assert reply.error is not None
    assert reply.error.startswith(expected)
    assert "\n" not in reply.error


def test_a_connection_that_falls_silent() -> None:
    with scripted(Script(first_token_s=5)) as server:
        reply = with_client(server.url, lambda c: c.stream("m", MESSAGES, 5), timeout_s=0.2)
    assert reply.error == "ReadTimeout"
    assert slowed(reply.end_ms, 200)


def test_negotiation_with_a_server_that_always_fails() -> None:
    with scripted(Script(failures={0: "429"})) as server:
        with pytest.raises(BenchError, match=r"the first request .* failed: HTTP 429: too many"):
            with_client(server.url, lambda c: c.negotiate("m", MESSAGES, 5))


def test_models_and_their_absence() -> None:
    with scripted(Script(models=("a", "b"))) as server:
        assert with_client(server.url, lambda c: c.served_models()) == ("a", "b")
        assert with_client(f"{server.url}/v1/", lambda c: c.served_models()) == ("a", "b")


def test_nobody_answers() -> None:
    with socket.socket() as taken:  # bound, not listening: connecting is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerUnreachableError, match="no server answers at") as caught:
            with_client(url, lambda c: c.served_models())
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("http://h/v3", "http://h/v3"),
    ],
)
def test_base_urls(given: str, used: str) -> None:
    assert versioned(given) == used


@pytest.mark.parametrize("given", ["h:8000", "127.0.0.1", "ftp://h", "http://", "", "http://h:x"])
def test_base_urls_that_are_none(given: str) -> None:
    with pytest.raises(BenchError, match="--base-url"):
        versioned(given)
