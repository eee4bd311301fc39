"""Who gets in: API keys, their rate, what is open to all; over HTTP and with OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from litestar.handlers import HTTPRouteHandler

from appliance.access.key_file import make_key, read_keys, write_keys
from appliance.api.gate import OPEN
from appliance.api.routes import ROUTES
from appliance.config import Config, ServerConfig
from tests.server import CHAT, COMPLETIONS, RESPONSES, Served, chat_body

PROTECTED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/metrics"),
    ("POST", CHAT),
    ("POST", COMPLETIONS),
    ("POST", RESPONSES),
]


@dataclass
class Keyed:
    served: Served
    path: Path
    ann: str
    bob: str

    def get(self, path: str, key: str | None, scheme: str = "Bearer") -> Any:
        headers = {} if key is None else {"Authorization": f"{scheme} {key}".encode()}
        return self.served.client.get(path, headers=headers)


def keyed(tmp_path: Path, tiny_model_dir: Path, **settings: Any) -> Keyed:
    """Not yet entered."""
    path = tmp_path / "api-keys"
    (ann, ann_record), (bob, bob_record) = make_key("ann"), make_key("bob")
    write_keys(path, [ann_record, bob_record])
    config = Config(server=ServerConfig(api_keys_file=path, **settings))
    return Keyed(Served(tiny_model_dir, config=config), path, ann, bob)


@pytest.fixture
def box(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Keyed]:
    box = keyed(tmp_path, tiny_model_dir)
    with box.served:
        box.served.answer("hello")
        yield box


def check_unauthorized(response: Any) -> str:
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)
    assert error["code"] == "invalid_api_key"
    return str(error["message"])


def test_every_key_is_let_in_and_no_other(box: Keyed) -> None:
    for key in (box.ann, box.bob):
        assert box.get("/v1/models", key).status_code == 200
    assert "needs an API key" in check_unauthorized(box.get("/v1/models", None))
    for wrong in ("sk-wrong", box.ann[:-1], box.ann + "x", box.ann.lower(), "ключ"):
        response = box.get("/v1/models", wrong)
        assert "not known" in check_unauthorized(response)
        assert wrong not in response.text


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_schemes_spelling_does_not_matter(box: Keyed, scheme: str) -> None:
    assert box.get("/v1/models", box.ann, scheme).status_code == 200


@pytest.mark.parametrize("scheme", ["Basic", "Token", "Bearer:"])
def test_another_scheme_is_no_key(box: Keyed, scheme: str) -> None:
    check_unauthorized(box.get("/v1/models", box.ann, scheme))


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_what_needs_a_key(box: Keyed, method: str, path: str) -> None:
    check_unauthorized(box.served.client.request(method, path))


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/docs/openapi.json"])
def test_what_is_open_to_all(box: Keyed, path: str) -> None:
    assert box.get(path, None).status_code == 200


def test_nothing_else_is_open() -> None:
    """A route that is added is protected until it says otherwise, and this test hears of it."""
    handlers = [handler for handler in ROUTES if isinstance(handler, HTTPRouteHandler)]
    is_open = {path for handler in handlers if handler.opt.get(OPEN) for path in handler.paths}
    assert is_open == {"/health/live", "/health/ready"}


def test_the_key_is_asked_for_before_the_body(box: Keyed) -> None:
    check_unauthorized(box.served.client.post(CHAT, content=b"x" * 5_000_000))
    check_unauthorized(box.served.client.post(CHAT, content=b"nonsense"))
    assert box.served.client.get("/health/live").status_code == 200


def test_keys_come_and_go_without_a_restart(box: Keyed) -> None:
    eve, record = make_key("eve")
    check_unauthorized(box.get("/v1/models", eve))
    write_keys(box.path, [*read_keys(box.path)[1:], record])
    ring = box.served.appliance.key_ring
    assert ring is not None
    box.served.in_loop(ring.reload)
    assert box.get("/v1/models", eve).status_code == 200
    assert box.get("/v1/models", box.bob).status_code == 200
    check_unauthorized(box.get("/v1/models", box.ann))


def test_without_keys_any_key_will_do(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir) as served:
        for headers in ({}, {"Authorization": "Bearer any"}, {"Authorization": "nonsense"}):
            assert served.client.get("/v1/models", headers=headers).status_code == 200


def test_the_document_says_that_a_key_is_needed(box: Keyed, tiny_model_dir: Path) -> None:
    schemes = box.get("/docs", None).json()["components"]["securitySchemes"]
    assert [s["scheme"] for s in schemes.values()] == ["bearer"]
    with Served(tiny_model_dir) as served:
        assert "security" not in served.client.get("/docs").json()


def test_openais_client(box: Keyed) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{box.served.url}/v1", api_key=key, max_retries=0)

    with client(box.ann) as right, client("sk-wrong") as wrong:
        answer = right.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content == "hello"
        with pytest.raises(openai.AuthenticationError) as caught:
            wrong.models.list()
    assert caught.value.code == "invalid_api_key"


def test_each_key_has_a_rate_of_its_own(tmp_path: Path, tiny_model_dir: Path) -> None:
    box = keyed(tmp_path, tiny_model_dir, requests_per_minute=3)
    with box.served:
        for _ in range(3):
            assert box.get("/v1/models", box.ann).status_code == 200
        response = box.get("/v1/models", box.ann)
        assert response.status_code == 429
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(response.headers["retry-after"]) <= 20
        assert box.get("/v1/models", box.bob).status_code == 200
        # Who watches the service is not kept from it.
        assert box.get("/metrics", box.ann).status_code == 200
        assert 'reason="rate_limit_exceeded"' in box.get("/metrics", box.ann).text
        check_unauthorized(box.get("/v1/models", "sk-wrong"))


def test_without_keys_all_share_one_rate(tiny_model_dir: Path) -> None:
    config = Config(server=ServerConfig(requests_per_minute=2))
    with Served(tiny_model_dir, config=config) as served:
        statuses = [served.client.get("/v1/models").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]


def test_refusals_at_the_gate_are_counted(box: Keyed) -> None:
    box.served.client.post(CHAT, json=chat_body())
    text = box.get("/metrics", box.ann).text
    assert 'qwen_appliance_requests_rejected_total{reason="invalid_api_key"} 1.0' in text
    assert f'http_responses_total{{route="{CHAT}",status="401"}} 1.0' in text


def test_a_conversation_of_too_many_messages(tiny_model_dir: Path) -> None:
    config = Config(server=ServerConfig(max_messages=2))
    with Served(tiny_model_dir, config=config) as served:
        body = chat_body(max_tokens=1)
        for count, status in ((2, 200), (3, 400)):
            body["messages"] = [{"role": "user", "content": "x"}] * count
            response = served.client.post(CHAT, content=json.dumps(body))
            assert response.status_code == status
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("messages", "invalid_value")
        assert "3 messages" in error["message"] and "takes 2" in error["message"]
