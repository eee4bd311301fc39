"""`GET /docs`: the service's own OpenAPI document, from the box alone."""

from __future__ import annotations

import pytest

from tests.server import Served


@pytest.mark.parametrize("path", ["/docs", "/docs/openapi.json"])
def test_the_openapi_document_names_every_route(served: Served, path: str) -> None:
    response = served.client.get(path)
    assert response.status_code == 200
    assert "json" in response.headers["content-type"]
    assert set(response.json()["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/models",
        "/v1/models/{model}",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
