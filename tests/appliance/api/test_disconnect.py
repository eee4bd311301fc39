"""A client that leaves: its sequence ends within a step, its slot is free, its prefix is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Request
from litestar.exceptions import ClientException

from appliance.api.disconnect import unless_gone
from appliance.api.sse import event_stream
from appliance.chat.completion import Completion
from appliance.chat.detokenizer import Detokenizer
from appliance.chat.stop_strings import StopStrings
from appliance.chat.tokenizer import Tokenizer
from appliance.config import Config, EngineConfig
from appliance.engine.generation import Generation
from appliance.engine.sequence import FinishReason
from tests import tiny_model
from tests.fakes import FakeRunner
from tests.server import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    Served,
    chat_body,
    raw_request,
    wait_until,
)

STEP_S = 0.005
A_WHOLE_ANSWER = 400  # passes, and some more; 2 s, in which a client's leaving shows


def quiet(served: Served) -> bool:
    """Whether no pass is made any more."""
    num_passes = len(served.runner.passes)
    time.sleep(10 * STEP_S)
    return len(served.runner.passes) == num_passes


@contextlib.contextmanager
def noticed_leaving(served: Served) -> Iterator[None]:
    """Around a client that leaves: behind it, the service knows, and has aborted what ran."""
    before = len(served.connections)
    yield
    wait_until(lambda: len(served.connections) <= before)
    for _ in range(10):
        served.in_loop(lambda: None)  # from the lost connection to the abort it is a few turns


def leave_abruptly(connection: socket.socket) -> None:
    """Close with a reset, as a process that is killed with data unread does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_until(connection: socket.socket, wanted: bytes) -> None:
    """Read until `wanted` has come."""
    seen = b""
    while wanted not in seen:
        piece = connection.recv(65536)
        assert piece, seen
        seen += piece


@pytest.fixture(scope="module")
def _one_token_a_step(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = Config(engine=EngineConfig(prompt_lookup=False))
    with Served(tiny_model.make(tmp_path_factory.mktemp("leave") / "tiny"), config=config) as one:
        yield one


@pytest.fixture
def endless(_one_token_a_step: Served) -> Iterator[Served]:
    """A server whose model answers slowly and without end, one token a step."""
    _one_token_a_step.reset()
    _one_token_a_step.runner.next_token = lambda token_ids: ord("x")
    _one_token_a_step.runner.step_s = STEP_S
    yield _one_token_a_step
    _one_token_a_step.check_no_leak()


BODIES = [
    (CHAT, chat_body("a prompt")),
    (COMPLETIONS, {"model": "tiny", "prompt": "a prompt"}),
    (RESPONSES, {"model": "tiny", "input": "a prompt"}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("abruptly", [False, True])
def test_leaving_in_the_middle_of_a_stream(
    endless: Served, path: str, body: dict[str, Any], abruptly: bool
) -> None:
    with raw_request(endless.address, path, {**body, "stream": True}) as connection:
        read_until(connection, b'"x')
        assert endless.num_open == 1
        if abruptly:
            leave_abruptly(connection)
    endless.check_no_leak()
    assert quiet(endless)
    assert len(endless.runner.passes) < A_WHOLE_ANSWER


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_leaving_while_a_whole_answer_is_computed(
    endless: Served, path: str, body: dict[str, Any]
) -> None:
    with raw_request(endless.address, path, body):
        wait_until(lambda: len(endless.runner.passes) > 5)
    endless.check_no_leak()
    assert quiet(endless)
    assert len(endless.runner.passes) < A_WHOLE_ANSWER


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_leaving_before_the_first_token(endless: Served, path: str, body: dict[str, Any]) -> None:
    endless.runner.gate.clear()
    try:
        with (
            noticed_leaving(endless),
            raw_request(endless.address, path, {**body, "stream": True}),
        ):
            wait_until(lambda: bool(endless.kv.used))
    finally:  # the abort waits for the pass that is under way
        endless.runner.gate.set()
    endless.check_no_leak()
    assert len(endless.runner.passes) == 1


def test_one_step_at_most_after_leaving(endless: Served) -> None:
    with (
        noticed_leaving(endless),
        raw_request(endless.address, CHAT, chat_body(stream=True)) as connection,
    ):
        read_until(connection, b"x")
        endless.runner.gate.clear()  # the next step to begin
        wait_until(endless.runner.held.is_set)
        num_passes = len(endless.runner.passes)
    endless.runner.release()
    endless.check_no_leak()
    assert len(endless.runner.passes) <= num_passes + 1


def test_the_prefix_of_an_aborted_answer_is_kept(endless: Served) -> None:
    with raw_request(endless.address, CHAT, chat_body("a long prompt", stream=True)) as connection:
        read_until(connection, b"x")
    endless.check_no_leak()
    usage = endless.chat("a long prompt", max_tokens=1).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_the_queue(tiny_model_dir: Path, stream: bool) -> None:
    with Served(tiny_model_dir, FakeRunner(max_slots=1, step_s=STEP_S)) as served:
        served.runner.next_token = lambda token_ids: ord("x")
        with raw_request(served.address, CHAT, chat_body("first", stream=True)) as first:
            read_until(first, b"x")
            with raw_request(served.address, CHAT, chat_body("second", stream=stream)):
                wait_until(lambda: served.num_open == 2)
            wait_until(lambda: served.num_open == 1)  # the first one goes on
            read_until(first, b"x")
        served.check_no_leak()
        slots_seen = {bytes(chunks[0].token_ids[6:12]) for chunks in served.runner.passes[3:]}
        assert b"second" not in slots_seen


def test_leaving_ends_every_prompt_of_a_list(endless: Served) -> None:
    body = {"model": "tiny", "prompt": ["a", "b", "c"], "stream": True}
    with raw_request(endless.address, COMPLETIONS, body) as connection:
        read_until(connection, b"x")
        assert endless.num_open == 3
    endless.check_no_leak()
    assert quiet(endless)


def test_leaving_is_no_error_in_the_log(endless: Served, caplog: pytest.LogCaptureFixture) -> None:
    for stream in (False, True):
        with raw_request(endless.address, CHAT, chat_body(stream=stream)):
            wait_until(lambda: endless.num_open == 1)
        endless.check_no_leak()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_many_that_come_and_go(endless: Served) -> None:
    for round_number in range(30):
        body = chat_body(f"prompt {round_number}", stream=round_number % 2 == 0)
        with raw_request(endless.address, CHAT, body) as connection:
            if round_number % 3:
                wait_until(lambda: endless.num_open > 0)
            if round_number % 5 == 0:
                leave_abruptly(connection)
    endless.check_no_leak()
    assert endless.chat(max_tokens=3).json()["usage"]["completion_tokens"] == 3


class _Aborts:
    """A completion whose aborts are counted; no engine behind it."""

    def __init__(self, model_dir: Path) -> None:
        self.count = 0
        self.generation = Generation(self._finish, max_tokens=10)
        self.completion = Completion(
            self.generation, Detokenizer(Tokenizer(model_dir)), StopStrings(()), num_prompt_tokens=1
        )

    def _finish(self, reason: FinishReason) -> None:
        assert reason is FinishReason.ABORT
        self.count += 1


def test_a_stream_whose_iterator_never_started_is_aborted(tiny_model_dir: Path) -> None:
    """Python runs no `finally` of a generator that was never entered."""
    aborts = _Aborts(tiny_model_dir)
    entered = []

    async def chunks() -> AsyncIterator[Any]:
        entered.append(True)
        yield None

    async def run() -> None:
        stream = event_stream(_request(), chunks(), [aborts.completion])
        response = stream.to_asgi_response(None, None, is_head_response=True)  # type: ignore[arg-type]
        await response({"type": "http"}, _gone, _ignore)  # type: ignore[arg-type]

    asyncio.run(run())
    assert not entered
    assert aborts.count == 1


def test_a_stream_whose_client_leaves_while_a_chunk_is_sent_is_aborted(
    tiny_model_dir: Path,
) -> None:
    """The generator then rests at its `yield`, and only the garbage collector would end it."""
    aborts = _Aborts(tiny_model_dir)

    async def chunks() -> AsyncIterator[Any]:
        try:
            yield None
        finally:
            aborts.completion.abort()

    async def run() -> None:
        generator = chunks()
        sending = asyncio.Event()

        async def receive() -> Any:
            await sending.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sending.set()
                await asyncio.sleep(60)

        stream = event_stream(_request(), generator, [aborts.completion])
        response = stream.to_asgi_response(None, None)  # type: ignore[arg-type]
        await asyncio.wait_for(response({"type": "http"}, receive, send), 5)  # type: ignore[arg-type]
        assert aborts.count == 1
        await generator.aclose()

    asyncio.run(run())
    assert aborts.count == 1  # and `abort` is idempotent


def _request() -> Request[Any, Any, Any]:
    return Request({"type": "http", "state": {}})  # type: ignore[typeddict-item]


async def _gone() -> Any:
    return {"type": "http.disconnect"}


async def _ignore(message: Any) -> None:
    pass


def test_work_goes_on_while_the_client_stays() -> None:
    async def run() -> str:
        async def receive() -> Any:
            await asyncio.sleep(60)

        async def work() -> str:
            await asyncio.sleep(0.01)
            return "done"

        return await unless_gone(receive, work())

    assert asyncio.run(run()) == "done"


def test_work_is_cancelled_and_over_when_the_client_leaves() -> None:
    ended = []

    async def run() -> None:
        async def receive() -> Any:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        with pytest.raises(ClientException) as caught:
            await unless_gone(receive, work())
        assert caught.value.status_code == 499
        assert ended

    asyncio.run(run())


def test_what_goes_wrong_in_the_work_is_raised() -> None:
    async def run() -> None:
        async def receive() -> Any:
            await asyncio.sleep(60)

        async def work() -> None:
            raise ValueError("wrong")

        with pytest.raises(ValueError, match="wrong"):
            await unless_gone(receive, work())

    asyncio.run(run())
