"""`serve`: its ready line, signals, exit codes; on a fake first, then on a real model."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.access.key_file import make_key, write_keys
from appliance.backends.base import Backend, Chunk
from appliance.config import Config, EngineConfig, ModelConfig, ServerConfig
from appliance.model_dir import CHAT_TEMPLATE
from appliance.serve import has_terminal, serve
from tests.fakes import FakeRunner, fake_backend
from tests.notify_socket import NotifySocket
from tests.served_process import ServedProcess
from tests.server import CHAT, chat_body, wait_until

# For what must come; long enough for a machine that is busy with other things.
PATIENCE_S = 30.0
# Of 30 s, which `shutdown_grace_s` has where nothing else is said.
SOONER_THAN_THE_GRACE_S = 15.0


class _Log(logging.Handler):
    """The service's log; `url` once it is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.ready = threading.Event()
        self.url = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if match := re.match(r"ready on (\S+)/v1 after [\d.]+ s: ", self.lines[-1]):
            self.url = match[1]
            self.ready.set()


@pytest.fixture
def log() -> Iterator[_Log]:
    logger, handler = logging.getLogger("appliance.serve"), _Log()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def run(
    model_dir: Path,
    backend: Backend,
    drive: Callable[[], None],
    shutdown_grace_s: float = 30,
    api_keys_file: Path | None = None,
) -> tuple[int, float]:
    """Serve in this thread while `drive` runs in another: the exit code, and how long it took.

    `drive` must see to it that the service ends.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            drive()
        except BaseException as error:
            errors.append(error)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    config = Config(
        model=ModelConfig(dir=model_dir),
        server=ServerConfig(port=0, shutdown_grace_s=shutdown_grace_s, api_keys_file=api_keys_file),
        # One token a step: how long an answer takes is how long it is.
        engine=EngineConfig(prompt_lookup=False),
    )
    # Until the service has its own, so that a test that goes wrong does not end the test run.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    driver = threading.Thread(target=guarded)
    started = time.monotonic()
    driver.start()
    try:
        code = serve(config, backend)
    finally:
        signal.signal(signal.SIGTERM, before)
    took_s = time.monotonic() - started
    driver.join(PATIENCE_S)
    if errors:
        raise errors[0]
    return code, took_s


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def endless(step_s: float = 0.005) -> FakeRunner:
    return FakeRunner(lambda token_ids: ord("x"), step_s=step_s)


def streamed(url: str, **fields: object) -> httpx.Response:
    body = chat_body(stream=True, **fields)
    return httpx.post(url + CHAT, json=body, timeout=PATIENCE_S, trust_env=False)


class _Stream(threading.Thread):
    """A client that reads one stream to its end."""

    def __init__(self, url: str, **fields: object) -> None:
        super().__init__()
        self._url, self._fields = url, fields
        self.begun = threading.Event()
        self.text = ""

    def run(self) -> None:
        body = chat_body(stream=True, **self._fields)
        with httpx.stream(
            "POST", self._url + CHAT, json=body, timeout=PATIENCE_S, trust_env=False
        ) as got:
            for piece in got.iter_text():
                self.text += piece
                self.begun.set()

    def ended(self) -> list[str]:
        self.join(PATIENCE_S)
        assert not self.is_alive()
        *events, done, rest = self.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return events


def begun_stream(url: str, **fields: object) -> _Stream:
    stream = _Stream(url, **fields)
    stream.start()
    assert stream.begun.wait(PATIENCE_S)
    return stream


def refuses_connections(url: str) -> bool:
    try:
        httpx.get(url + "/health/live", timeout=PATIENCE_S, trust_env=False)
    except httpx.ConnectError:
        return True
    except (httpx.ReadError, httpx.RemoteProtocolError):
        # It still got into the queue of the socket that was just being closed: ask again.
        return False
    return False


def is_told(url: str, line: str) -> bool:
    """Whether `/metrics` has this line."""
    return (
        line in httpx.get(url + "/metrics", timeout=PATIENCE_S, trust_env=False).text.splitlines()
    )


def test_sigterm_ends_an_idle_service_with_0(tiny_model_dir: Path, log: _Log) -> None:
    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        assert httpx.get(log.url + "/health/ready", trust_env=False).status_code == 200
        terminate()

    code, took_s = run(tiny_model_dir, fake_backend(), drive)
    assert code == 0
    assert took_s < SOONER_THAN_THE_GRACE_S
    assert len(log.lines) == 1


def test_sigterm_lets_running_answers_end(tiny_model_dir: Path, log: _Log) -> None:
    runner = endless()

    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        stream = begun_stream(log.url, max_tokens=100)
        runner.gate.clear()
        terminate()
        wait_until(lambda: refuses_connections(log.url))
        assert stream.is_alive()
        runner.gate.set()
        *chunks, last = stream.ended()
        assert len(chunks) == 100
        assert '"finish_reason":"length"' in last

    code, took_s = run(tiny_model_dir, fake_backend(runner), drive)
    assert code == 0
    assert took_s < SOONER_THAN_THE_GRACE_S


def test_sigterm_waits_no_longer_than_the_grace(tiny_model_dir: Path, log: _Log) -> None:
    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        stream = begun_stream(log.url, max_tokens=400)
        terminate()
        *chunks, last = stream.ended()
        assert 3 < len(chunks) < 300  # of 400, in 20 s or more
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "not_ready"

    code, took_s = run(tiny_model_dir, fake_backend(endless(0.05)), drive, shutdown_grace_s=0.5)
    assert code == 0
    assert took_s < 15


def test_a_second_sigterm_does_not_wait(tiny_model_dir: Path, log: _Log) -> None:
    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        stream = begun_stream(log.url, max_tokens=400)
        terminate()
        wait_until(lambda: refuses_connections(log.url))
        terminate()
        *_, last = stream.ended()
        assert "error" in json.loads(last.removeprefix("data: "))

    code, took_s = run(tiny_model_dir, fake_backend(endless(0.05)), drive)
    assert code == 0
    assert took_s < SOONER_THAN_THE_GRACE_S


def test_requests_that_wait_are_told_too(tiny_model_dir: Path, log: _Log) -> None:
    answers = []

    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        stream = begun_stream(log.url, max_tokens=400)
        waiting = threading.Thread(target=lambda: answers.append(streamed(log.url)))
        waiting.start()
        wait_until(lambda: is_told(log.url, "qwen_appliance_sequences_waiting 1.0"))
        terminate()
        stream.ended()
        waiting.join(PATIENCE_S)

    runner = FakeRunner(lambda token_ids: ord("x"), step_s=0.05, max_slots=1)
    code, _ = run(tiny_model_dir, fake_backend(runner), drive, shutdown_grace_s=0.1)
    assert code == 0
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].headers["retry-after"]


@pytest.mark.skipif(has_terminal(), reason="in a terminal, SIGHUP ends the service")
def test_sighup_reads_the_keys_again(tiny_model_dir: Path, tmp_path: Path, log: _Log) -> None:
    path = tmp_path / "api-keys"
    (old, old_record), (new, new_record) = make_key("old"), make_key("new")
    write_keys(path, [old_record])

    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(log.url + "/v1/models", headers=headers, trust_env=False).status_code

    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        assert (status(old), status(new)) == (200, 401)
        write_keys(path, [new_record])
        os.kill(os.getpid(), signal.SIGHUP)
        assert (status(old), status(new)) == (401, 200)
        terminate()

    code, _ = run(tiny_model_dir, fake_backend(), drive, api_keys_file=path)
    assert code == 0


class _WarmingUp(FakeRunner):
    """Held in its first pass until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()
        self.entered = threading.Event()

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        self.entered.set()
        return super().forward(chunks)


def test_sigterm_while_it_warms_up_is_no_failure(tiny_model_dir: Path, log: _Log) -> None:
    runner = _WarmingUp()

    def drive() -> None:
        assert runner.entered.wait(PATIENCE_S)
        terminate()
        terminate()
        time.sleep(0.1)
        runner.gate.set()

    code, _ = run(tiny_model_dir, fake_backend(runner), drive)
    assert code == 0
    assert log.lines == []


def test_the_engines_death_ends_the_service_with_6(tiny_model_dir: Path, log: _Log) -> None:
    def drive() -> None:
        assert log.ready.wait(PATIENCE_S)
        response = streamed(log.url)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_dead"

    code, _ = run(tiny_model_dir, fake_backend(FakeRunner(fail_after=2)), drive)
    assert code == 6
    assert "the engine died" in log.lines[-1]


def test_the_supervisor_hears_of_the_whole_life(
    tiny_model_dir: Path, tmp_path: Path, log: _Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NotifySocket(str(tmp_path / "notify")) as supervisor:
        monkeypatch.setenv("NOTIFY_SOCKET", supervisor.listen().address)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")

        def drive() -> None:
            # Loading, ready, alive although nobody asks anything, on the way out.
            supervisor.wait_for("STATUS=loading tiny", "READY=1", "WATCHDOG=1", "WATCHDOG=1")
            assert f"STATUS=tiny on {log.url}/v1; 0 answers under way" in supervisor.messages
            terminate()
            supervisor.wait_for("READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=45000000")

        code, _ = run(tiny_model_dir, fake_backend(), drive)
        assert code == 0


def test_a_model_that_cannot_be_loaded_ends_the_service(tiny_model_dir: Path, log: _Log) -> None:
    (tiny_model_dir / CHAT_TEMPLATE).write_text("{% if %}", encoding="utf-8")
    code, _ = run(tiny_model_dir, fake_backend(), lambda: None)
    assert code == 3
    (line,) = log.lines
    assert CHAT_TEMPLATE in line


# From here on: a process of its own, on a real model.

TOKENS_THAT_TAKE_A_WHILE = 200


def read(served: ServedProcess, response: httpx.Response) -> tuple[str, list[str]]:
    """The rest of a stream: its text, and its events without the last `[DONE]`."""
    *events, done, rest = "".join(response.iter_text()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    deltas = [c["delta"] for event in parsed for c in event.get("choices", ())]
    return "".join(delta.get("content", "") for delta in deltas), events


@pytest.mark.model
def test_one_line_says_that_it_is_ready(model_dir: Path, tmp_path: Path) -> None:
    # At any log level: whoever starts a service wants to know when it serves.
    with ServedProcess(model_dir, "server.log_level=error", cache_dir=tmp_path) as served:
        response = served.client.post(CHAT, json=served.body("Say hello.", max_tokens=20))
        assert response.json()["choices"][0]["message"]["content"]
        with served.client.stream(
            "POST", CHAT, json=served.body("Say hello.", max_tokens=20, stream=True)
        ) as stream:
            text, _ = read(served, stream)
        assert text
        assert served.ready["model"] == served.model
        assert served.ready["precision"] == "int8"
        assert float(served.ready["load_s"]) > 0 and float(served.ready["warm_up_s"]) > 0
        served.terminate()
        assert served.exit_code() == 0
        assert len(served.lines) == 1  # ready; nothing to say about requests or about the end


@pytest.mark.model
def test_a_stream_ends_whole_after_sigterm(model_dir: Path) -> None:
    body_fields = {"max_tokens": TOKENS_THAT_TAKE_A_WHILE, "ignore_eos": True, "stream": True}
    with ServedProcess(model_dir) as served:
        with served.client.stream("POST", CHAT, json=served.body(**body_fields)) as stream:
            served.terminate()
            wait_until(lambda: refuses_connections(served.url))
            _, events = read(served, stream)
        assert '"finish_reason":"length"' in events[-1]
        assert served.exit_code() == 0


@pytest.mark.model
def test_a_long_stream_is_told_when_the_grace_is_over(model_dir: Path) -> None:
    body_fields = {"max_tokens": 4000, "ignore_eos": True, "stream": True}
    with ServedProcess(model_dir, "server.shutdown_grace_s=0.3") as served:
        with served.client.stream("POST", CHAT, json=served.body(**body_fields)) as stream:
            served.terminate()
            _, events = read(served, stream)
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "not_ready"
        assert served.exit_code() == 0


@pytest.mark.model
def test_a_second_sigterm_aborts_at_once(model_dir: Path) -> None:
    body_fields = {"max_tokens": 4000, "ignore_eos": True, "stream": True}
    with ServedProcess(model_dir) as served:
        with served.client.stream("POST", CHAT, json=served.body(**body_fields)) as stream:
            served.terminate()
            wait_until(lambda: refuses_connections(served.url))
            told = time.monotonic()
            served.terminate()
            _, events = read(served, stream)
        assert "error" in json.loads(events[-1].removeprefix("data: "))
        assert served.exit_code() == 0
        assert time.monotonic() - told < SOONER_THAN_THE_GRACE_S


@pytest.mark.model
def test_memory_stays_small_and_no_torch_is_loaded(
    model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServedProcess(model_dir) as served:
        after_start = served.anonymous_bytes()
        for number in range(40):
            body = served.body(f"What is {number}+{number}?", max_tokens=8)
            assert served.client.post(CHAT, json=body).status_code == 200
        after_requests = served.anonymous_bytes()
        maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    with capsys.disabled():
        sys.stdout.write(
            f"\nanonymous memory: {after_start >> 20} MiB, after 40 requests "
            f"{after_requests >> 20} MiB\n"
        )
    assert "libtorch" not in maps
    assert "openvino" in maps  # the check can see what is loaded
    assert after_requests < 750e6


@pytest.mark.model
def test_what_the_service_imports(model_dir: Path) -> None:
    """Neither torch nor transformers, even where they are installed."""
    code = (
        "import sys, appliance.serve, appliance.backends.loader, appliance.backends.stateful.runner"
        "; print([m for m in ('torch', 'transformers', 'optimum', 'nncf') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
