"""`GET /metrics`: what requests leave in it, and that it answers at any time."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.server import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    Served,
    chat_body,
    events,
    named_events,
    raw_request,
    wait_until,
)

CHATS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "qwen_appliance",
    "gen_ai_request_model": "tiny",
}
TEXTS = {**CHATS, "gen_ai_operation_name": "text_completion"}
DURATION = "gen_ai_server_request_duration_seconds"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"


class Scrape(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """All samples of one scrape."""

    def __init__(self, served: Served) -> None:
        response = served.client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                self[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.get((name, frozenset(labels.items())), 0.0)

    def own(self, name: str, **labels: str) -> float:
        return self.value(f"qwen_appliance_{name}", **labels)


@pytest.fixture
def fresh(tiny_model_dir: Path) -> Served:
    """Not yet entered; nothing has been counted."""
    return Served(tiny_model_dir)


def at_rest(served: Served) -> Scrape:
    """A scrape that holds all the steps and responses so far."""
    served.check_no_leak()
    return Scrape(served)


def test_nothing_is_counted_before_the_first_request(fresh: Served) -> None:
    with fresh as served:
        # The engine thread begins to count at its own next turn.
        registry = served.appliance.metrics.registry
        wait_until(lambda: bool(registry.get_sample_value("qwen_appliance_kv_tokens")))
        before = Scrape(served)
        assert len(served.runner.passes) == 2, "the warm-up ran"
        counts = {
            name: value
            for (name, _), value in before.items()
            if name.startswith(("gen_ai", "qwen_appliance")) and value
        }
        assert set(counts) == {
            "qwen_appliance_build_info",
            "qwen_appliance_status",
            "qwen_appliance_process_anonymous_memory_bytes",
            "qwen_appliance_kv_tokens",
            "qwen_appliance_kv_bytes",
        }
        build = next(dict(labels) for (name, labels) in before if name.endswith("build_info"))
        assert set(build) == {"version", "model", "precision", "kv_cache", "openvino_version"}
        assert build["model"] == "tiny"


def test_a_streamed_chat(fresh: Served) -> None:
    with fresh as served:
        served.answer("hello")
        events(served.chat(stream=True))
        scrape = at_rest(served)
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="") == 1
        assert scrape.value(f"{FIRST_TOKEN}_count", **CHATS) == 1
        assert scrape.value(f"{PER_TOKEN}_count", **CHATS) == 1
        assert scrape.own("generation_tokens_total") == 5
        assert scrape.own("inter_token_latency_seconds_count") == 4
        assert scrape.own("sequences_finished_total", reason="stop") == 1
        assert scrape.own("http_responses_total", route=CHAT, status="200") == 1
        assert scrape.own("sequence_queue_time_seconds_count") == 1
        assert scrape.own("prompt_tokens_total") == (
            scrape.own("prefill_tokens_total") + scrape.own("cached_prompt_tokens_total")
        )


def test_responses_are_chats_on_a_route_of_their_own(fresh: Served) -> None:
    with fresh as served:
        served.answer("hello")
        named_events(served.respond(stream=True))
        assert served.respond().status_code == 200
        assert served.respond(previous_response_id="resp_1").status_code == 400
        scrape = at_rest(served)
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="") == 2
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="invalid_value") == 1
        assert scrape.value(f"{FIRST_TOKEN}_count", **CHATS) == 1
        assert scrape.value(f"{PER_TOKEN}_count", **CHATS) == 2
        assert scrape.own("http_responses_total", route=RESPONSES, status="200") == 2
        assert scrape.own("http_responses_total", route=RESPONSES, status="400") == 1


def test_the_first_token_s_time_is_the_client_s(fresh: Served) -> None:
    """It begins with the request and ends with the text written, so it contains the queue."""
    with fresh as served:
        served.runner.step_s = 0.05
        served.answer("hello")
        events(served.chat(stream=True))
        scrape = at_rest(served)
        first = scrape.value(f"{FIRST_TOKEN}_sum", **CHATS)
        assert scrape.own("sequence_prefill_time_seconds_sum") < first
        assert 0.05 < first < scrape.value(f"{DURATION}_sum", **CHATS, error_type="")
        assert 0.04 < scrape.value(f"{PER_TOKEN}_sum", **CHATS) < 1


def test_a_whole_answer_has_no_first_text_of_its_own(fresh: Served) -> None:
    with fresh as served:
        served.answer("hello", behind=b":")
        assert served.complete("say:").status_code == 200
        scrape = at_rest(served)
        assert scrape.value(f"{DURATION}_count", **TEXTS, error_type="") == 1
        assert scrape.value(f"{FIRST_TOKEN}_count", **TEXTS) == 0
        assert scrape.value(f"{PER_TOKEN}_count", **TEXTS) == 1
        assert scrape.own("sequence_prefill_time_seconds_count") == 1


@pytest.mark.parametrize(
    ("fields", "reason"), [({"max_tokens": 2}, "length"), ({"stop": "ll"}, "stop"), ({}, "stop")]
)
def test_how_an_answer_ended(fresh: Served, fields: dict[str, object], reason: str) -> None:
    """A stop string is found outside of the engine, and is no client that left."""
    with fresh as served:
        served.answer("hello, hello")
        served.chat(**fields)
        scrape = at_rest(served)
        for known in ("stop", "length", "abort", "error"):
            expected = int(known == reason)
            assert scrape.own("sequences_finished_total", reason=known) == expected


def test_a_client_that_leaves_its_stream(fresh: Served) -> None:
    with fresh as served:
        served.answer_forever()
        served.runner.step_s = 0.002
        with raw_request(served.address, CHAT, chat_body(stream=True)) as connection:
            connection.recv(100)
        scrape = at_rest(served)
        assert scrape.own("sequences_finished_total", reason="abort") == 1
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="client_left") == 1
        assert scrape.value(f"{FIRST_TOKEN}_count", **CHATS) == 1
        assert scrape.value(f"{PER_TOKEN}_count", **CHATS) == 0, "not an answer's own end"


def test_a_client_that_leaves_before_there_is_text(fresh: Served) -> None:
    with fresh as served:
        served.runner.gate.clear()
        with raw_request(served.address, CHAT, chat_body()):
            wait_until(lambda: served.num_open == 1)
        served.runner.gate.set()
        wait_until(
            lambda: Scrape(served).own("http_responses_total", route=CHAT, status="499") == 1
        )
        scrape = at_rest(served)
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="client_left") == 1
        assert not any(
            value for (name, _), value in scrape.items() if name.endswith("rejected_total")
        )


def test_refusals_by_reason(fresh: Served) -> None:
    with fresh as served:
        served.chat(temperature=7)
        served.client.post(CHAT, content=b"{")
        served.client.post(CHAT, json=chat_body(model="x") | {"model": "other"})
        served.client.post(CHAT, json=chat_body("x" * 5_000_000))
        served.complete("x" * 600)
        scrape = at_rest(served)
        assert scrape.own("requests_rejected_total", reason="invalid_value") == 2
        assert scrape.own("requests_rejected_total", reason="model_not_found") == 1
        assert scrape.own("requests_rejected_total", reason="payload_too_large") == 1
        assert scrape.own("requests_rejected_total", reason="context_length_exceeded") == 1
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="model_not_found") == 1
        assert scrape.own("http_responses_total", route=CHAT, status="400") == 2


def test_a_full_queue_shows_while_it_is_full(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(max_waiting=1))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.runner.gate.clear()
        with (
            raw_request(served.address, CHAT, chat_body(max_tokens=1)),
            raw_request(served.address, COMPLETIONS, {"model": "tiny", "prompt": "x"}),
        ):
            wait_until(lambda: served.num_open == 2)
            response = served.chat()
            assert response.status_code == 429
            assert 1 <= int(response.headers["retry-after"]) <= 60
            scrape = Scrape(served)
            assert scrape.own("requests_rejected_total", reason="queue_full") == 1
            assert scrape.own("sequences_running") == 1
        served.runner.gate.set()


def test_paths_that_clients_make_up_are_one_route(fresh: Served) -> None:
    with fresh as served:
        for path in ("/a", "/b", "/v1/chat"):
            assert served.client.get(path).status_code == 404
        assert served.client.get("/v1/models/tiny").status_code == 200
        assert served.client.get("/v1/models/other/one").status_code == 404
        assert served.client.get(CHAT).status_code == 405
        scrape = at_rest(served)
        assert scrape.own("http_responses_total", route="unmatched", status="404") == 3
        one = "/v1/models/{model}"
        assert scrape.own("http_responses_total", route=one, status="200") == 1
        assert scrape.own("http_responses_total", route=one, status="404") == 1
        assert scrape.own("requests_rejected_total", reason="model_not_found") == 0, "no chat"


def test_it_answers_while_loading_draining_and_after_the_engine_died(tiny_model_dir: Path) -> None:
    served = Served(tiny_model_dir, FakeRunner(fail_after=4), wait=False)
    served.runner.gate.clear()
    with served:
        assert Scrape(served).own("status", status="loading") == 1
        assert served.chat().status_code == 503
        served.runner.gate.set()
        assert served.ready.wait(5)
        assert Scrape(served).own("status", status="ready") == 1
        assert served.chat(stream=True).status_code == 200
        wait_until(lambda: bool(served.failures))
        scrape = Scrape(served)
        assert scrape.own("status", status="failed") == 1
        assert scrape.own("requests_rejected_total", reason="not_ready") == 1
        assert scrape.own("sequences_finished_total", reason="error") == 1
        assert scrape.own("sequences_running") == 0
        # Told inside the stream, whose status was 200.
        assert scrape.value(f"{DURATION}_count", **CHATS, error_type="engine_dead") == 1


def test_draining_shows(fresh: Served) -> None:
    with fresh as served:
        served.in_loop(served.appliance.stop_accepting)
        assert Scrape(served).own("status", status="draining") == 1


def test_openmetrics_for_who_asks(fresh: Served) -> None:
    with fresh as served:
        served.chat()
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        response = served.client.get("/metrics", headers={"accept": accept})
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        names = {family.name for family in parse_openmetrics(response.text)}
        assert "qwen_appliance_generation_tokens" in names
