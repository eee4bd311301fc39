"""Headers around every answer: request ids, and what browsers are told about other origins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openai
import pytest

from appliance.api.cors import cors_config
from appliance.config import Config, ServerConfig
from appliance.errors import ConfigError
from tests.server import CHAT, Served, chat_body

PAGE = "http://localhost:3000"


@pytest.mark.parametrize(
    "request_id", ["abc", "req_1", "a" * 128, "00-4bf9-2f35:7/8", "who@where=x.y+z"]
)
def test_a_request_id_comes_back(served: Served, request_id: str) -> None:
    headers = {"X-Request-Id": request_id}
    for response in (
        served.client.post(CHAT, json=chat_body(), headers=headers),
        served.client.post(CHAT, json=chat_body(stream=True), headers=headers),
        served.client.post(CHAT, content=b"nonsense", headers=headers),
        served.client.get("/nowhere", headers=headers),
        served.client.get("/health/live", headers=headers),
    ):
        assert response.headers.get_list("x-request-id") == [request_id]


@pytest.mark.parametrize("request_id", [None, "", "a b", "a" * 129, "<script>", "a\tb", "é"])
def test_otherwise_one_is_made(served: Served, request_id: str | None) -> None:
    headers = {} if request_id is None else {"X-Request-Id": request_id.encode()}
    made = [served.client.get("/v1/models", headers=headers).headers["x-request-id"] for _ in "ab"]
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in made)
    assert made[0] != made[1]


def test_openais_client_knows_it(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        models = client.models.with_raw_response.list(extra_headers={"X-Request-Id": "mine"})
        assert models.request_id == "mine"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-9")
        assert str(caught.value.request_id).startswith("req_")


def preflight(served: Served, origin: str = PAGE) -> Any:
    return served.client.options(
        CHAT,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        },
    )


def test_no_other_origin_is_let_in_by_default(served: Served) -> None:
    assert "access-control-allow-origin" not in preflight(served).headers
    response = served.client.get("/v1/models", headers={"Origin": PAGE})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origins", [(PAGE,), ("https://chat.example", PAGE), ("*",)])
def test_an_origin_that_is_listed(tiny_model_dir: Path, origins: tuple[str, ...]) -> None:
    config = Config(server=ServerConfig(cors_origins=origins))
    with Served(tiny_model_dir, config=config) as served:
        answer = preflight(served)
        assert answer.status_code == 204
        allowed = {
            h.strip().lower() for h in answer.headers["access-control-allow-headers"].split(",")
        }
        assert {"authorization", "content-type", "x-stainless-lang"} <= allowed
        assert "POST" in answer.headers["access-control-allow-methods"]
        headers = {"Origin": PAGE}
        for response in (
            answer,
            served.client.get("/v1/models", headers=headers),
            served.client.post(CHAT, json=chat_body(stream=True), headers=headers),
            served.client.post(CHAT, content=b"nonsense", headers=headers),
            served.client.get("/nowhere", headers=headers),
        ):
            assert response.headers["access-control-allow-origin"] in (PAGE, "*")
        exposed = response.headers["access-control-expose-headers"].lower()
        assert "retry-after" in exposed and "x-request-id" in exposed


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3001", "https://localhost:3000", f"{PAGE}.example", "null", "http://x"],
)
def test_an_origin_that_is_not_listed(tiny_model_dir: Path, origin: str) -> None:
    config = Config(server=ServerConfig(cors_origins=(PAGE,)))
    with Served(tiny_model_dir, config=config) as served:
        assert "access-control-allow-origin" not in preflight(served, origin).headers
        response = served.client.get("/v1/models", headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://localhost:3000/", "http://*.example", "", "null"]
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.cors_origins"):
        cors_config([origin])
