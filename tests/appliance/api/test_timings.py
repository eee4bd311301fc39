"""Where a request's time went, told when asked for."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fakes import FakeRunner
from tests.server import CHAT, Served, chat_body, events, raw_request, wait_until

FIELDS = {
    "queue_ms",
    "cache_n",
    "prompt_n",
    "prompt_ms",
    "predicted_n",
    "predicted_ms",
    "predicted_per_second",
    "draft_n",
    "draft_n_accepted",
}


def timings(served: Served, path: str, stream: bool, **fields: Any) -> Any:
    body = {**chat_body(), "prompt": "say:", "timings": True, "stream": stream, **fields}
    response = served.client.post(path, json=body)
    if not stream:
        return response.json()["timings"]
    *chunks, last = events(response)
    assert all("timings" not in chunk for chunk in chunks)
    return last["timings"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_they_come_with_the_answer_or_its_last_chunk(
    served: Served, path: str, stream: bool, usage: bool
) -> None:
    served.answer("hello", behind=b"assistant\n" if path == CHAT else b"say:")
    served.runner.step_s = 0.005
    options = {"stream_options": {"include_usage": True}} if usage and stream else {}
    told = timings(served, path, stream, **options)
    assert told.keys() == FIELDS
    assert told["predicted_n"] == 5 and told["cache_n"] == 0
    assert told["prompt_ms"] >= 5 and told["predicted_ms"] > 5
    assert told["queue_ms"] + told["prompt_ms"] + told["predicted_ms"] >= 5 * 5
    assert told["predicted_per_second"] == pytest.approx(4000 / told["predicted_ms"], rel=0.01)
    again = timings(served, path, stream, **options)
    assert (again["prompt_n"], again["cache_n"]) == (1, told["prompt_n"] - 1)


@pytest.mark.parametrize("stream", [False, True])
def test_none_unless_asked_for(served: Served, stream: bool) -> None:
    for fields in ({}, {"timings": False}, {"timings": None}):
        response = served.chat(stream=stream, **fields)
        assert "timings" not in response.text


def test_waiting_is_not_computing(tiny_model_dir: Path) -> None:
    def open_the_gate_later() -> None:
        wait_until(lambda: served.num_open == 2)
        time.sleep(0.5)
        served.runner.gate.set()

    with Served(tiny_model_dir, FakeRunner(max_slots=1)) as served:
        served.answer("hello")
        served.runner.gate.clear()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
            opening = threading.Thread(target=open_the_gate_later)
            opening.start()
            began = time.monotonic()
            told = timings(served, CHAT, stream=False)
            passed_ms = (time.monotonic() - began) * 1000
            opening.join()
        assert told["queue_ms"] >= 490
        assert told["prompt_ms"] < 490
        assert told["queue_ms"] + told["prompt_ms"] + told["predicted_ms"] <= passed_ms


def test_drafts_are_counted(served: Served) -> None:
    text = "one two three, " * 4
    served.answer(text)
    told = timings(served, CHAT, stream=True, messages=chat_body(text)["messages"])
    assert told["draft_n"] >= told["draft_n_accepted"] > 10
    assert told["predicted_n"] == len(text)


def test_an_answer_of_one_token_or_none_has_no_rate(served: Served) -> None:
    one = timings(served, CHAT, stream=False, max_tokens=1)
    assert (one["predicted_n"], one["predicted_ms"], one["predicted_per_second"]) == (1, 0, None)
    served.answer("")
    none = timings(served, CHAT, stream=True)
    assert (none["predicted_n"], none["predicted_per_second"]) == (0, None)


def test_several_answers_are_told_together(served: Served) -> None:
    told = timings(served, CHAT, stream=True, n=3)
    assert told["predicted_n"] == 15
    whole = timings(served, CHAT, stream=False, n=3)
    assert whole["cache_n"] + whole["prompt_n"] == told["cache_n"] + told["prompt_n"]


def test_openais_client_hands_them_on(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            extra_body={"timings": True},
        )
    assert (answer.model_extra or {})["timings"]["predicted_n"] == 5
