"""The appliance's life: loading, ready, draining, failed, and what it tells of each."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import startup
from appliance.app import Appliance, create_app
from appliance.backends.base import Backend
from appliance.config import Config, EngineConfig, ModelConfig
from appliance.errors import (
    ApplianceError,
    BackendError,
    ConfigError,
    EngineDeadError,
    ModelDirError,
)
from appliance.model_dir import CHAT_TEMPLATE, TOKENIZER
from appliance.service import ServiceStatus
from tests.fakes import FakeRunner, fake_backend
from tests.server import Served, wait_until


def config_for(model_dir: Path) -> Config:
    return Config(model=ModelConfig(dir=model_dir))


def started(model_dir: Path, backend: Backend) -> tuple[Appliance, list[ApplianceError]]:
    """An appliance whose `start()` has ended, and what it told of failures."""
    appliance = Appliance(config_for(model_dir), backend)
    failures: list[ApplianceError] = []
    appliance.on_failure = failures.append
    appliance.on_ready = lambda text: None

    async def run() -> None:
        await appliance.start()
        await appliance.close()

    asyncio.run(run())
    return appliance, failures


def test_loading_then_ready_then_one_line_that_says_how_long(tiny_model_dir: Path) -> None:
    served = Served(tiny_model_dir, wait=False)
    served.runner.gate.clear()
    with served:
        assert served.service.status is ServiceStatus.LOADING
        assert served.chat().status_code == 503
        assert not served.ready.is_set()
        served.runner.gate.set()
        assert served.ready.wait(5)
        assert served.service.status is ServiceStatus.READY
        for part in ("tiny", "fake", "load", "tokenizer", "warm-up"):
            assert part in served.ready_line
        assert len(served.runner.passes) == 2  # it has answered real tokens before it says so
        assert served.chat(max_tokens=1).status_code == 200
    assert served.runner.closed
    assert served.failures == []


def test_a_served_name_replaces_the_manifests(tiny_model_dir: Path) -> None:
    config = Config(model=ModelConfig(dir=tiny_model_dir, name="assistant"))
    assert Appliance(config, fake_backend()).service.model_name == "assistant"
    assert Appliance(config_for(tiny_model_dir), fake_backend()).service.model_name == "tiny"


def test_without_a_model_directory() -> None:
    with pytest.raises(ConfigError, match=r"model\.dir"):
        create_app(Config())


def test_a_missing_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match="does not exist"):
        create_app(config_for(tmp_path / "nowhere"))


def test_a_file_of_another_size_is_found_before_anything_is_loaded(tiny_model_dir: Path) -> None:
    (tiny_model_dir / TOKENIZER).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelDirError, match=r"tokenizer\.json has 2 bytes"):
        create_app(config_for(tiny_model_dir))


def break_tokenizer(model_dir: Path) -> None:
    (model_dir / TOKENIZER).write_text("{}", encoding="utf-8")


def break_template(model_dir: Path) -> None:
    (model_dir / CHAT_TEMPLATE).write_text("line\n{% if %}", encoding="utf-8")


def remove_template(model_dir: Path) -> None:
    (model_dir / CHAT_TEMPLATE).unlink()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (break_tokenizer, "tokenizer.json cannot be read"),
        (break_template, "chat_template.jinja cannot be read: line 2"),
        (remove_template, "chat_template.jinja cannot be read"),
    ],
)
def test_a_broken_file_ends_in_failed(
    tiny_model_dir: Path, break_it: Callable[[Path], None], says: str
) -> None:
    break_it(tiny_model_dir)
    appliance, failures = started(tiny_model_dir, fake_backend())
    assert [type(failure) for failure in failures] == [ModelDirError]
    assert says in str(failures[0])
    assert appliance.service.status is ServiceStatus.FAILED


def test_requests_after_a_failed_load_hear_why(tiny_model_dir: Path) -> None:
    break_template(tiny_model_dir)
    with Served(tiny_model_dir, wait=False) as served:
        wait_until(lambda: bool(served.failures))
        response = served.chat()
        assert response.status_code == 500
        assert "chat_template.jinja" in response.json()["error"]["message"]
        assert served.client.get("/health/ready").json() == {"status": "failed"}
        assert served.client.get("/health/live").status_code == 200


def test_an_error_nobody_foresaw_is_told_too(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost in a task that nobody awaits, and the service loaded for ever."""

    def broken(*arguments: object) -> startup.Loaded:
        raise KeyError("surprise")

    monkeypatch.setattr(startup, "load", broken)
    appliance, failures = started(tiny_model_dir, fake_backend())
    assert [type(failure) for failure in failures] == [BackendError]
    assert "KeyError: 'surprise'" in str(failures[0])
    assert appliance.service.status is ServiceStatus.FAILED


def test_an_engine_that_dies_while_it_warms_up_is_told_once(tiny_model_dir: Path) -> None:
    _, failures = started(tiny_model_dir, fake_backend(FakeRunner(fail_after=0)))
    assert [type(failure) for failure in failures] == [EngineDeadError]


def test_a_failure_is_logged_when_nobody_listens(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    appliance = Appliance(config_for(tiny_model_dir), fake_backend(FakeRunner(fail_after=0)))
    asyncio.run(appliance.start())
    assert any(
        record.levelno == logging.ERROR and record.name == "appliance.app"
        for record in caplog.records
    )


@pytest.mark.parametrize("close_at_once", [False, True])
def test_told_to_stop_while_it_warms_up(tiny_model_dir: Path, close_at_once: bool) -> None:
    """It said "ready" afterwards, or failed, and served on."""
    served = Served(tiny_model_dir, wait=False)
    served.runner.gate.clear()
    with served:
        wait_until(lambda: served.num_open == 1)
        served.in_loop(served.appliance.stop_accepting)
        if close_at_once:
            served.in_loop(lambda: closing.append(asyncio.ensure_future(served.appliance.close())))
        served.runner.gate.set()
        wait_until(lambda: served.num_open == 0)
        assert served.chat().status_code == 503
    assert not served.ready.is_set()
    assert served.failures == []
    assert served.runner.closed


closing: list[asyncio.Future[None]] = []


def test_told_to_stop_while_it_loads(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()
    load = startup.load

    def slow(*arguments: object) -> startup.Loaded:
        loading.set()
        assert go_on.wait(5)
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(startup, "load", slow)
    with Served(tiny_model_dir, wait=False) as served:
        assert loading.wait(5)
        served.in_loop(served.appliance.stop_accepting)
        go_on.set()
        wait_until(lambda: served.runner.closed)
        assert served.service.status is ServiceStatus.DRAINING
    assert not served.ready.is_set()
    assert served.runner.passes == []


def test_what_runs_may_end_while_nothing_new_is_taken(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(step_s=0.005)) as served:
        served.answer("a whole answer")
        with served.client.stream("POST", "/v1/chat/completions", json=_streamed()) as response:
            pieces = response.iter_bytes()
            first = next(pieces)
            served.in_loop(served.appliance.stop_accepting)
            assert served.chat().status_code == 503
            text = (first + b"".join(pieces)).decode()
        assert text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"stop"' in text


def test_closing_tells_every_client_that_still_waits(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(prompt_lookup=False))  # a token a step: 10 s and more
    with Served(tiny_model_dir, FakeRunner(step_s=0.02), config) as served:
        served.answer_forever()
        with served.client.stream("POST", "/v1/chat/completions", json=_streamed()) as response:
            pieces = response.iter_bytes()
            first = next(pieces)
            before = time.monotonic()
            served.in_loop(lambda: closing.append(asyncio.ensure_future(served.appliance.close())))
            *_, error, done, _ = (first + b"".join(pieces)).decode().split("\n\n")
        assert time.monotonic() - before < 5
        assert done == "data: [DONE]"
        told = json.loads(error.removeprefix("data: "))["error"]
        assert (told["type"], told["code"]) == ("service_unavailable_error", "not_ready")
        assert served.failures == []


def test_the_engine_keeps_to_the_configuration(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(prefill_chunk=16))
    with Served(tiny_model_dir, config=config) as served:
        served.runner.passes.clear()
        served.chat("x" * 60, max_tokens=1)
        lengths = [len(chunk.token_ids) for (chunk,) in served.runner.passes]
        assert max(lengths) == 16 and len(lengths) == -(-sum(lengths) // 16)


def _streamed() -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
