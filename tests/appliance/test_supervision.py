"""What the supervisor hears while the appliance loads, serves, hangs, drains and fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.app import Appliance
from appliance.config import Config, ModelConfig
from appliance.engine.sampling_params import SamplingParams
from appliance.notify import Notifier
from appliance.supervision import Supervision
from tests.fakes import FakeRunner, fake_backend
from tests.notify_socket import NotifySocket

WATCHDOG_S = 0.2
LOADING_LIMIT_S = 600.0
ALIVE = "WATCHDOG=1"
# For what must come; long enough for a machine that is busy with other things.
PATIENCE_S = 20.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(str(tmp_path / "notify")) as listening:
        yield listening.listen()


class _Supervised:
    """An appliance on a fake runner, and its supervision; `ready` when it serves.

    The limit of its loading is in the time of `now`, which only tests move on.
    """

    def __init__(self, model_dir: Path, runner: FakeRunner, supervisor: NotifySocket) -> None:
        config = Config(model=ModelConfig(dir=model_dir))
        self.runner = runner
        self.now = 1000.0
        self.appliance = Appliance(config, fake_backend(runner))
        self.supervision = Supervision(
            self.appliance,
            Notifier(supervisor.address, watchdog_s=WATCHDOG_S),
            loading_limit_s=LOADING_LIMIT_S,
            clock=lambda: self.now,
        )
        self.ready = asyncio.Event()
        self.failed = asyncio.Event()
        self.appliance.on_ready = self._on_ready
        self.appliance.on_failure = lambda error: self.failed.set()

    def _on_ready(self, text: str) -> None:
        self.supervision.ready("http://box:8000/v1")
        self.ready.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        reporting = asyncio.create_task(self.supervision.run())
        starting = asyncio.create_task(self.appliance.start())
        try:
            yield
        finally:
            self.runner.gate.set()
            reporting.cancel()
            await starting
            await self.appliance.close()


def supervised(
    model_dir: Path,
    supervisor: NotifySocket,
    drive: Callable[[_Supervised], Awaitable[None]],
    runner: FakeRunner | None = None,
) -> None:
    """Run an appliance while `drive` does, in an event loop of its own."""

    async def run() -> None:
        one = _Supervised(model_dir, runner or FakeRunner(), supervisor)
        async with one.running():
            await asyncio.wait_for(drive(one), PATIENCE_S)

    asyncio.run(run())


def signs_of_life(supervisor: NotifySocket) -> int:
    return supervisor.messages.count(ALIVE)


def extensions(supervisor: NotifySocket) -> int:
    return sum(message.startswith("EXTEND_TIMEOUT_USEC=") for message in supervisor.messages)


def without_signs_of_life(supervisor: NotifySocket) -> list[str]:
    """What was told, but for the signs of life, which come between at any time once it serves."""
    return [message for message in supervisor.messages if message != ALIVE]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def all_heard(supervisor: NotifySocket) -> None:
    """Wait until what was sent so far, and what is ready to be sent, has arrived."""
    for _ in range(10):
        await asyncio.sleep(0)  # what the engine thread has answered reaches its waiter
    mark = f"STATUS=mark {len(supervisor.messages)}"
    Notifier(supervisor.address).status(mark.removeprefix("STATUS="))
    await until(lambda: mark in supervisor.messages)


def test_more_time_is_asked_for_while_it_loads_and_ready_comes_last(
    tiny_model_dir: Path, supervisor: NotifySocket
) -> None:
    runner = FakeRunner()
    runner.gate.clear()  # held in its warm-up

    async def drive(one: _Supervised) -> None:
        await until(lambda: extensions(supervisor) > 0)
        assert supervisor.messages[0] == "STATUS=loading tiny"
        await asyncio.sleep(WATCHDOG_S)
        assert "READY=1" not in supervisor.messages
        assert ALIVE not in supervisor.messages
        runner.gate.set()
        await one.ready.wait()
        assert len(runner.passes) == 2  # real tokens came before the word
        await all_heard(supervisor)
        told = "STATUS=tiny on http://box:8000/v1; 0 answers under way"
        *_, ready, status, _ = without_signs_of_life(supervisor)
        assert [ready, status] == ["READY=1", told]
        assert ALIVE not in supervisor.messages[: supervisor.messages.index("READY=1")]

    supervised(tiny_model_dir, supervisor, drive, runner)


def test_an_idle_service_gives_signs_of_life(
    tiny_model_dir: Path, supervisor: NotifySocket
) -> None:
    async def drive(one: _Supervised) -> None:
        await one.ready.wait()
        engine = one.appliance.engine
        assert engine is not None
        before = signs_of_life(supervisor)
        # Three times a watchdog's time, as long as both threads of this machine make of it.
        for _ in range(12):
            await asyncio.sleep(WATCHDOG_S / 4)
            await engine.turn()
        await all_heard(supervisor)
        # Four a watchdog's time; half of them would do.
        assert signs_of_life(supervisor) - before >= 6

    supervised(tiny_model_dir, supervisor, drive)


def test_a_busy_service_gives_signs_of_life_between_its_steps(
    tiny_model_dir: Path, supervisor: NotifySocket
) -> None:
    async def drive(one: _Supervised) -> None:
        await one.ready.wait()
        assert one.appliance.engine is not None
        before, computed = signs_of_life(supervisor), len(one.runner.passes)
        one.appliance.engine.submit((1, 2), SamplingParams(max_tokens=400), timeout_s=60)
        await until(lambda: signs_of_life(supervisor) >= before + 4)
        assert len(one.runner.passes) > computed
        assert one.appliance.engine.num_open == 1
        assert any("1 answers under way" in message for message in supervisor.messages)

    supervised(tiny_model_dir, supervisor, drive, FakeRunner(lambda ids: 1, step_s=0.02))


def test_a_pass_that_never_ends_gives_none(tiny_model_dir: Path, supervisor: NotifySocket) -> None:
    runner = FakeRunner()

    async def drive(one: _Supervised) -> None:
        await one.ready.wait()
        await until(lambda: signs_of_life(supervisor) > 0)
        assert one.appliance.engine is not None
        runner.gate.clear()
        one.appliance.engine.submit((1, 2), SamplingParams(max_tokens=4), timeout_s=60)
        await until(runner.held.is_set)
        await all_heard(supervisor)
        before = signs_of_life(supervisor)
        # The event loop runs all the while.
        await asyncio.sleep(3 * WATCHDOG_S)
        await all_heard(supervisor)
        assert signs_of_life(supervisor) == before
        runner.gate.set()
        await until(lambda: signs_of_life(supervisor) > before)

    supervised(tiny_model_dir, supervisor, drive, runner)


def test_draining_asks_for_the_time_that_answers_have(
    tiny_model_dir: Path, supervisor: NotifySocket
) -> None:
    async def drive(one: _Supervised) -> None:
        await one.ready.wait()
        one.appliance.stop_accepting()
        one.supervision.stopping(grace_s=100)
        told = "STATUS=draining; 0 answers under way"
        expected = ["STOPPING=1", "EXTEND_TIMEOUT_USEC=115000000", told]
        await until(lambda: without_signs_of_life(supervisor)[-3:] == expected)

    supervised(tiny_model_dir, supervisor, drive)


def test_a_failure_is_told_in_the_status(tiny_model_dir: Path, supervisor: NotifySocket) -> None:
    async def drive(one: _Supervised) -> None:
        await one.failed.wait()
        one.supervision.stopping(grace_s=0)
        told = "STATUS=failed: the engine died"
        await until(lambda: any(message.startswith(told) for message in supervisor.messages))
        assert "READY=1" not in supervisor.messages

    supervised(tiny_model_dir, supervisor, drive, FakeRunner(fail_after=0))


def test_a_load_that_hangs_gets_no_more_time(
    tiny_model_dir: Path, supervisor: NotifySocket
) -> None:
    runner = FakeRunner()
    runner.gate.clear()

    async def drive(one: _Supervised) -> None:
        await until(lambda: extensions(supervisor) > 1)
        one.now += LOADING_LIMIT_S - 1
        asked = extensions(supervisor)
        await until(lambda: extensions(supervisor) > asked + 1)
        one.now += 1
        await all_heard(supervisor)
        asked = extensions(supervisor)
        await asyncio.sleep(2 * WATCHDOG_S)
        await all_heard(supervisor)
        assert extensions(supervisor) == asked

    supervised(tiny_model_dir, supervisor, drive, runner)
