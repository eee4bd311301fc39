"""Every row of the table of errors on every route where it can happen, as the document tells it.

The routes are those that there are: a new one is held to the table, too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from appliance.access.key_file import make_key, write_keys
from appliance.api.documented import DOCUMENTED, Documented
from appliance.api.gate import OPEN
from appliance.api.routes import ROUTES
from appliance.config import Config, EngineConfig, ServerConfig
from tests import tiny_model
from tests.fakes import FakeRunner
from tests.server import CHAT, COMPLETIONS, Served, raw_request, wait_until

TOLD: dict[str, Documented] = {next(iter(r.paths)): r.opt[DOCUMENTED] for r in ROUTES}
POSTS = [path for r in ROUTES if "POST" in r.http_methods for path in r.paths]
GENERATING = [path for path in POSTS if TOLD[path].events]
GUARDED = [path for r in ROUTES if not r.opt.get(OPEN) for path in r.paths]
WAYS = [(path, name) for path in GENERATING for name in TOLD[path].examples]
SERVING = [(path, name) for path in POSTS for name in TOLD[path].examples]

posts = pytest.mark.parametrize("path", POSTS)
ways = pytest.mark.parametrize(("path", "name"), WAYS)
serving = pytest.mark.parametrize(("path", "name"), SERVING)


def body(path: str, name: str | None = None) -> dict[str, Any]:
    """A right one: the document's example of that name, or its first."""
    examples = TOLD[path].examples
    return {"model": "tiny", **examples[name or next(iter(examples))]}


def call(served: Served, path: str, **options: Any) -> httpx.Response:
    """The route's own method, and by itself a right body."""
    if path in POSTS:
        return served.client.post(path, **({"json": body(path)} | options))
    return served.client.get(path.replace("{model:path}", "tiny"), **options)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a service that asks for keys and counts requests, so that all that can be told is."""
    directory = tmp_path_factory.mktemp("document")
    write_keys(directory / "keys", [make_key("ann")[1]])
    server = ServerConfig(api_keys_file=directory / "keys", requests_per_minute=9)
    with Served(tiny_model.make(directory / "tiny"), config=Config(server=server)) as served:
        return served.client.get("/docs").json()


@pytest.fixture
def check(document: Any) -> Callable[..., Any]:
    """A function that holds a refusal to the document, and returns its error object."""

    def check(path: str, response: httpx.Response, status: int, code: str) -> Any:
        assert response.status_code == status, response.text
        (operation,) = document["paths"][path.replace(":path", "")].values()
        told = operation["responses"][str(status)]
        assert response.headers["content-type"] == "application/json"
        schema = told["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(
            response.json()
        )
        for name, header in told["headers"].items():
            value: Any = response.headers[name]
            value = int(value) if header["schema"].get("type") == "integer" else value
            Draft202012Validator(header["schema"]).validate(value)
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == code and error["message"]
        return error

    return check


@posts
def test_what_is_no_json(served: Served, check: Callable[..., Any], path: str) -> None:
    for content in (b"", b"{", b"[]", b"nonsense", b'"\xff"', b"[" * 100_000, b'{"model": NaN}'):
        error = check(path, served.client.post(path, content=content), 400, "invalid_value")
        assert error["param"] is None


@posts
def test_a_wrong_type_and_what_is_missing(
    served: Served, check: Callable[..., Any], path: str
) -> None:
    for name in body(path):
        response = call(served, path, json={**body(path), name: {"a": 1}})
        assert check(path, response, 400, "invalid_value")["param"] == name


@posts
def test_another_model(served: Served, check: Callable[..., Any], path: str) -> None:
    response = call(served, path, json={**body(path), "model": "gpt-9"})
    assert check(path, response, 404, "model_not_found")["param"] == "model"


def test_another_model_by_its_path(served: Served, check: Callable[..., Any]) -> None:
    for name in ("gpt-9", "a/b", "..%2f", "%00", "%ff", "tiny%20"):
        response = served.client.get(f"/v1/models/{name}")
        check("/v1/models/{model:path}", response, 404, "model_not_found")


def test_another_method_and_another_path(served: Served) -> None:
    for path in TOLD:
        method = "DELETE" if path in POSTS else "POST"
        response = served.client.request(method, path.replace("{model:path}", "tiny"))
        assert response.status_code == 405 and response.headers["allow"]
        assert response.json()["error"]["code"] == "method_not_allowed"
        response = served.client.request(method, path.replace("{model:path}", "tiny") + "x/y")
        assert response.json()["error"]["code"] in ("not_found", "method_not_allowed")


def test_a_client_without_v1_in_its_base_is_told(served: Served) -> None:
    response = served.client.post("/chat/completions", json=body(CHAT))
    message = response.json()["error"]["message"]
    assert response.status_code == 404
    assert "/chat/completions" in message and "/v1" in message and "/docs" in message
    response = served.client.get(CHAT)
    message = response.json()["error"]["message"]
    assert "GET" in message and CHAT in message and "POST" in message


@posts
def test_a_body_that_is_too_large(
    tiny_model_dir: Path, check: Callable[..., Any], path: str
) -> None:
    def in_pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * 512

    with Served(tiny_model_dir, config=Config(server=ServerConfig(max_body_bytes=1024))) as served:
        for content in (b" " * 1025, in_pieces()):
            response = served.client.post(path, content=content)
            check(path, response, 413, "payload_too_large")


@pytest.mark.parametrize("path", GUARDED)
def test_no_key_and_a_wrong_one(
    tmp_path: Path, tiny_model_dir: Path, check: Callable[..., Any], path: str
) -> None:
    key, record = make_key("ann")
    write_keys(tmp_path / "keys", [record])
    config = Config(server=ServerConfig(api_keys_file=tmp_path / "keys"))
    with Served(tiny_model_dir, config=config) as served:
        served.answer("hello")
        for value in (None, "Bearer", "Bearer wrong", "Basic x", f"Bearer {key}x"):
            headers = {} if value is None else {"Authorization": value}
            check(path, call(served, path, headers=headers), 401, "invalid_api_key")
        headers = {"Authorization": f"Bearer {key}"}
        assert call(served, path, headers=headers).status_code == 200


@pytest.mark.parametrize("path", [path for path in TOLD if path.startswith("/v1/")])
def test_more_than_in_a_minute(tiny_model_dir: Path, check: Callable[..., Any], path: str) -> None:
    config = Config(server=ServerConfig(requests_per_minute=1))
    with Served(tiny_model_dir, config=config) as served:
        served.answer("hello")
        assert call(served, path).status_code == 200
        error = check(path, call(served, path), 429, "rate_limit_exceeded")
        assert error["type"] == "rate_limit_error"


@ways
def test_a_full_queue(
    tiny_model_dir: Path, check: Callable[..., Any], path: str, name: str
) -> None:
    config = Config(engine=EngineConfig(max_waiting=1))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served, ExitStack() as open_:
        served.runner.gate.clear()
        for num_open in (1, 2):
            open_.enter_context(raw_request(served.address, path, body(path)))
            wait_until(lambda n=num_open: served.num_open == n)  # type: ignore[misc]
        response = served.client.post(path, json=body(path, name))
        check(path, response, 429, "queue_full")


@serving
def test_loading_draining_and_dead(
    tiny_model_dir: Path, check: Callable[..., Any], path: str, name: str
) -> None:
    runner = FakeRunner()
    runner.gate.clear()
    with Served(tiny_model_dir, runner, wait=False) as served:
        check(path, served.client.post(path, json=body(path, name)), 503, "not_ready")
        assert served.client.get("/health/ready").json() == {"status": "loading"}
        runner.gate.set()
        assert served.ready.wait(10)
        served.in_loop(served.appliance.stop_accepting)
        check(path, served.client.post(path, json=body(path, name)), 503, "not_ready")
        assert served.client.get("/health/ready").json() == {"status": "draining"}
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        served.chat()
        wait_until(lambda: bool(served.failures))
        check(path, served.client.post(path, json=body(path, name)), 500, "engine_dead")
        response = served.client.get("/health/ready")
        assert (response.status_code, response.json()) == (503, {"status": "failed"})
        assert int(response.headers["retry-after"]) >= 1


@ways
def test_the_engine_dies_before_there_is_text(
    tiny_model_dir: Path, check: Callable[..., Any], path: str, name: str
) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        check(path, served.client.post(path, json=body(path, name)), 500, "engine_dead")


@serving
def test_a_bug_of_ours(served: Served, check: Callable[..., Any], path: str, name: str) -> None:
    completer = served.service.completer
    served.service.completer = object()  # type: ignore[assignment]
    try:
        response = served.client.post(path, json=body(path, name))
    finally:
        served.service.completer = completer
    assert "AttributeError" not in check(path, response, 500, "internal_error")["message"]


@ways
def test_no_time_left_before_there_is_text(
    tiny_model_dir: Path, check: Callable[..., Any], path: str, name: str
) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=0.05))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.runner.gate.clear()
        with raw_request(served.address, path, body(path)):
            wait_until(lambda: served.num_open == 1)
            # It waits behind the other one, whose pass has to end before anybody can be told.
            threading.Timer(0.3, served.runner.gate.set).start()
            check(path, served.client.post(path, json=body(path, name)), 504, "deadline_exceeded")


@ways
def test_a_prompt_that_does_not_fit(
    served: Served, check: Callable[..., Any], path: str, name: str
) -> None:
    long = json.loads(json.dumps(body(path, name)).replace("sky", "sky" * 200))
    error = check(path, served.client.post(path, json=long), 400, "context_length_exceeded")
    assert "maximum context length is 512 tokens" in error["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("runner", "engine", "code"),
    [
        (FakeRunner(lambda _: 120, fail_after=9), EngineConfig(), "engine_dead"),
        (FakeRunner(lambda _: 120, step_s=0.01), EngineConfig(request_timeout_s=0.2), "deadline"),
    ],
)
def test_within_a_stream_it_is_an_event(
    tiny_model_dir: Path, document: Any, path: str, runner: Any, engine: Any, code: str
) -> None:
    runner = FakeRunner(runner.next_token, step_s=runner.step_s, fail_after=runner.fail_after)
    with Served(tiny_model_dir, runner, Config(engine=engine)) as served:
        response = served.client.post(path, json={**body(path, "streamed"), "max_tokens": 200})
    assert response.status_code == 200
    *parts, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    *chunks, last = [json.loads(part.removeprefix("data: ")) for part in parts]
    assert chunks and all("choices" in chunk for chunk in chunks)
    schema = {"$ref": "#/components/schemas/ErrorBody", "components": document["components"]}
    Draft202012Validator(schema).validate(last)
    assert last["error"]["type"] == "server_error" and last["error"]["code"].startswith(code)
