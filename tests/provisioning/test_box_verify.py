"""Verification against a service that answers as it is told to."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.model_dir import Architecture, Golden, Manifest, Source, Weights
from provisioning.box.verify import KEY_VARIABLE, Budget, VerificationError, verify

WORDS = {5: "One", 6: ",", 7: " two", 8: "\N{REPLACEMENT CHARACTER}", 2: "<end>"}
GOLDEN = Golden("Count", (1, 3, 4), (5, 6, 7, 8, 2))
BUDGET = Budget(ttft_ms=100, itl_ms=30)


class Service:
    """`answer`: the tokens, as text; `not_ready` and `too_many` count down; `key` is asked for."""

    def __init__(self) -> None:
        self.answer = ["One", ",", " two", "\\xe4"]
        self.not_ready = 0
        self.too_many = 0
        self.key: str | None = None
        self.asked: dict[str, Any] = {}
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/health/ready":
                    service.not_ready -= 1
                    self._send(503 if service.not_ready >= 0 else 200, {"status": "loading"})
                else:
                    self._send(*self._checked({"data": [{"id": "M"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/detokenize":
                    text = "".join(WORDS[one] for one in body["tokens"])
                    return self._send(*self._checked({"prompt": text}))
                service.asked = body
                logprobs = {"tokens": service.answer}
                return self._send(*self._checked({"choices": [{"logprobs": logprobs}]}))

            def _checked(self, told: dict[str, Any]) -> tuple[int, dict[str, Any]]:
                if service.key and self.headers["Authorization"] != f"Bearer {service.key}":
                    return 401, {"error": {"message": "no key"}}
                return 200, told

            def _send(self, status: int, told: dict[str, Any]) -> None:
                text = json.dumps(told).encode()
                service.too_many -= 1
                self.send_response(429 if service.too_many >= 0 else status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    with made.server:
        thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.server.shutdown()
        thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    manifest = Manifest(
        format=1,
        name="M",
        created="2026-01-01T00:00:00+00:00",
        source=Source("dir:/m", "sha256:0"),
        files={},
        architecture=Architecture("qwen2", 10, 100, 1, 1, 8),
        weights=Weights("int8", True, -1),
        eos_token_ids=(2,),
        bos_token_id=None,
        generation_defaults={},
        tool_call_format=None,
        versions={},
        quality=None,
        golden=GOLDEN,
        inputs_sha256="0",
    )
    (tmp_path / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    return tmp_path


def run(service: Service, model: Path, timeout_s: float = 5.0) -> dict[str, Any]:
    return verify(service.url, model, BUDGET, measure=False, timeout_s=timeout_s)


def test_the_golden_prompt_is_asked_greedily_and_by_its_ids(service: Service, model: Path) -> None:
    service.not_ready = 2
    told = run(service, model)
    assert told["model"] == "M" and told["ms_per_token"] is None and told["over_budget"] == []
    assert service.asked["prompt"] == [1, 3, 4] and service.asked["max_tokens"] == 5
    assert service.asked["temperature"] == 0 and service.asked["repetition_penalty"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        ["One", ",", " three", "\\xe4"],
        ["One", ",", " two"],
        ["One", ",", " two", "x"],
        [],
    ],
)
def test_another_answer_is_none(service: Service, model: Path, answer: list[str]) -> None:
    service.answer = answer
    with pytest.raises(VerificationError, match="the golden prompt is answered with"):
        run(service, model)


def test_who_never_gets_ready_is_told_why(service: Service, model: Path) -> None:
    service.not_ready = 1000
    with pytest.raises(VerificationError, match=r"not ready after 0.3 s: /health/ready .* 503"):
        run(service, model, timeout_s=0.3)


def test_a_key_with_a_limit_waits_and_is_not_measured(service: Service, model: Path) -> None:
    service.too_many = 3
    told = verify(service.url, model, BUDGET, measure=True, timeout_s=5)
    assert told["ms_per_token"] is None
    assert told["over_budget"] == ["not measured: server.requests_per_minute is too low for it"]


def test_keys(service: Service, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service.key = "sk-1"
    with pytest.raises(VerificationError, match="401"):
        run(service, model)
    monkeypatch.setenv(KEY_VARIABLE, "sk-1")
    assert run(service, model)["model"] == "M"
