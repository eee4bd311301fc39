"""What OpenAI's own client makes of every status: its class, whether it tries again, and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from appliance.access.key_file import make_key, write_keys
from appliance.config import Config, EngineConfig, ServerConfig
from tests.fakes import FakeRunner
from tests.server import CHAT, Served, chat_body, raw_request, wait_until

Call = Callable[[OpenAI], Any]


def chat(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**chat_body(**fields))


def completion(client: OpenAI, **fields: Any) -> Any:
    prompt = "hi<|im_start|>assistant\n"
    return client.completions.create(model="tiny", prompt=prompt, max_tokens=400, **fields)


def response(client: OpenAI, **fields: Any) -> Any:
    return client.responses.create(model="tiny", input="hi", **fields)


calls = pytest.mark.parametrize("call", [chat, completion, response])


def client_of(served: Served, **options: Any) -> OpenAI:
    options = {"api_key": "any", "max_retries": 0, **options}
    return OpenAI(base_url=f"{served.url}/v1", timeout=60, **options)


def num_requests(served: Served, status: int) -> int:
    """How many of its requests were answered so, as the service counts them."""
    lines = served.client.get("/metrics").text.splitlines()
    return sum(
        int(float(line.rsplit(" ", 1)[1]))
        for line in lines
        if line.startswith("qwen_appliance_http_responses_total{") and f'"{status}"' in line
    )


@calls
def test_401(tmp_path: Path, tiny_model_dir: Path, call: Call) -> None:
    key, record = make_key("ann")
    write_keys(tmp_path / "keys", [record])
    config = Config(server=ServerConfig(api_keys_file=tmp_path / "keys"))
    with Served(tiny_model_dir, config=config) as served:
        served.answer("hello")
        with client_of(served) as client, pytest.raises(openai.AuthenticationError) as caught:
            call(client)
        assert caught.value.code == "invalid_api_key" and caught.value.request_id
        with client_of(served, api_key=key) as client:
            call(client)


def test_404_and_413(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir) as served, client_of(served) as client:
        with pytest.raises(openai.NotFoundError) as not_found:
            client.embeddings.create(model="tiny", input="hi")
        assert not_found.value.code == "not_found"
        with pytest.raises(openai.APIStatusError) as caught:
            chat(client, content="x" * (5 << 20))
        assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")


def test_429_of_a_key_that_asks_too_often(tiny_model_dir: Path) -> None:
    config = Config(server=ServerConfig(requests_per_minute=2))
    with Served(tiny_model_dir, config=config) as served, client_of(served) as client:
        served.answer("hello")
        chat(client)
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client)
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


@calls
def test_429_is_tried_again_when_retry_after_says(tiny_model_dir: Path, call: Call) -> None:
    config = Config(engine=EngineConfig(max_waiting=0))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.answer("hello")
        served.runner.gate.clear()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
            with client_of(served) as client, pytest.raises(openai.RateLimitError) as caught:
                call(client)
            assert caught.value.code == "queue_full"
            wait_s = int(caught.value.response.headers["retry-after"])
            started = time.monotonic()
            threading.Timer(wait_s - 0.8, served.runner.gate.set).start()
            with client_of(served, max_retries=1) as client:
                call(client)
        assert time.monotonic() - started > wait_s - 0.1


@calls
def test_503_is_tried_again_until_the_model_is_loaded(tiny_model_dir: Path, call: Call) -> None:
    loading = FakeRunner()
    loading.gate.clear()
    with Served(tiny_model_dir, loading, wait=False) as served:
        served.answer("hello")
        with client_of(served) as client, pytest.raises(openai.InternalServerError) as caught:
            call(client)
        assert (caught.value.status_code, caught.value.code) == (503, "not_ready")
        threading.Timer(0.3, served.runner.gate.set).start()
        with client_of(served, max_retries=5) as client:
            call(client)


@calls
def test_500_of_an_engine_that_has_died(tiny_model_dir: Path, call: Call) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        served.chat()
        with client_of(served) as client, pytest.raises(openai.InternalServerError) as caught:
            call(client)
        assert (caught.value.status_code, caught.value.code) == (500, "engine_dead")


@calls
def test_504_is_not_tried_again(tiny_model_dir: Path, call: Call) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=0.1))
    with Served(tiny_model_dir, FakeRunner(step_s=0.01), config) as served:
        served.answer_forever()
        with client_of(served, max_retries=5) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                call(client)
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
        assert num_requests(served, 504) == 1


@pytest.mark.parametrize("call", [chat, completion])  # a response's: test_responses_sdk.py
def test_an_error_behind_the_first_text_is_raised(tiny_model_dir: Path, call: Any) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=0.2))
    with Served(tiny_model_dir, FakeRunner(step_s=0.01), config) as served:
        served.answer_forever()
        num_events = 0
        with client_of(served) as client, pytest.raises(openai.APIError) as caught:
            for _ in call(client, stream=True):
                num_events += 1
        assert num_events > 1 and caught.value.code == "deadline_exceeded"


@calls
def test_the_clients_own_time_out_frees_the_seat(tiny_model_dir: Path, call: Any) -> None:
    with Served(tiny_model_dir) as served:
        served.runner.gate.clear()
        with client_of(served) as client, pytest.raises(openai.APITimeoutError):
            call(client, timeout=0.3)
        served.runner.gate.set()
        served.check_no_leak()
