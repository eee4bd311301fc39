"""What a client is told when something is wrong, and that it is always told in the same form."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance import errors
from appliance.api import exceptions
from appliance.api.exceptions import ANSWERS, answer_to, error_body
from appliance.bench import errors as bench_errors
from appliance.config import Config, EngineConfig, ServerConfig
from appliance.tune.calibration import UnusableCalibrationError
from tests.fakes import FakeRunner
from tests.server import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    Served,
    chat_body,
    raw_request,
    wait_until,
)

INVALID = "invalid_request_error"


def refusal(response: httpx.Response, status: int, code: str, kind: str = INVALID) -> Any:
    """The error object of `response`, after a check of all that it must have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, code)
    assert error["message"] and "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "the body is empty"),
        (b"nonsense", "not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'{"model": "tiny", "temperature": NaN}', "not valid JSON"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b'{"model": "tiny", "user": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep"),
        (b'{"model": "tiny", "user": "\\ud83d"}', "not valid JSON"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_a_body_that_is_no_json_object(served: Served, path: str, body: bytes, says: str) -> None:
    error = refusal(served.client.post(path, content=body), 400, "invalid_value")
    assert says in error["message"]
    assert error["param"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"text": "no type"}]}]}, "messages"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"logit_bias": {"5": "much"}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"n": True}, "n"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"stream": "true"}, "stream"),
    ],
)
def test_a_wrong_type_names_the_parameter(
    served: Served, fields: dict[str, Any], param: str
) -> None:
    response = served.client.post(CHAT, json=chat_body(**fields))
    assert refusal(response, 400, "invalid_value")["param"] == param


def test_a_number_that_is_none_names_the_parameter(served: Served) -> None:
    body = b'{"model": "tiny", "temperature": 1e999}'
    assert refusal(served.client.post(CHAT, content=body), 400, "invalid_value")["param"] == (
        "temperature"
    )


def test_the_content_type_does_not_matter(served: Served) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        response = served.client.post(
            CHAT, content=json.dumps(chat_body()), headers={"Content-Type": content_type}
        )
        assert response.json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_parameter_is_named(served: Served, missing: str) -> None:
    body = chat_body()
    del body[missing]
    error = refusal(served.client.post(CHAT, json=body), 400, "invalid_value")
    assert error["param"] == missing
    assert "missing" in error["message"]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 1.5),
        ("min_p", -1),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", 5e-324),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 10**6),
        ("max_tokens", 10**30),
        ("max_completion_tokens", 0),
        ("max_completion_tokens", -1),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"300": 1}),
        ("logit_bias", {"-1": 1}),
        ("seed", 2**64),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("stream_options", {"include_usage": True}),
        ("n", 9),
        ("n", 0),
        ("max_completion_tokens", 10**6),
        ("top_logprobs", 5),
        ("top_logprobs", 21),
    ],
)
def test_out_of_range_names_the_parameter(served: Served, param: str, value: Any) -> None:
    error = refusal(served.chat(**{param: value}), 400, "invalid_value")
    assert error["param"] == param
    assert param in error["message"]
    assert not served.runner.passes


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_told_before_any_header(served: Served, stream: bool) -> None:
    empty = served.chat("").json()["usage"]["prompt_tokens"]
    fits = served.runner.limits.max_model_len - 1 - empty
    for excess in (1, 4):
        response = served.chat("x" * (fits + excess), stream=stream)
        error = refusal(response, 400, "context_length_exceeded")
        assert error["param"] == "messages"
        assert "maximum context length is 512 tokens" in error["message"]
        assert f"it has {511 + excess} tokens" in error["message"]
    assert served.chat("x" * fits).json()["usage"]["completion_tokens"] == 1


def test_a_long_completion_prompt_names_prompt(served: Served) -> None:
    error = refusal(served.complete("x" * 600), 400, "context_length_exceeded")
    assert error["param"] == "prompt"
    assert "600 tokens" in error["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_an_unknown_model(served: Served, path: str) -> None:
    body = chat_body(model="gpt-9", prompt="x", input="x")
    error = refusal(served.client.post(path, json=body), 404, "model_not_found")
    assert error["param"] == "model"
    assert "'gpt-9'" in error["message"] and "'tiny'" in error["message"]


def test_an_unknown_path_and_a_wrong_method(served: Served) -> None:
    refusal(served.client.get("/v1/nothing"), 404, "not_found")
    refusal(served.client.post("/v1/nothing", json={}), 404, "not_found")
    for path in (CHAT, COMPLETIONS, RESPONSES):
        response = served.client.get(path)
        refusal(response, 405, "method_not_allowed")
        assert "POST" in response.headers["allow"]
    refusal(served.client.delete("/v1/models"), 405, "method_not_allowed")


def test_a_body_that_is_too_large(tiny_model_dir: Path) -> None:
    config = Config(server=ServerConfig(max_body_bytes=1024))

    def pieces() -> Iterator[bytes]:  # sent without a Content-Length
        for _ in range(3):
            yield b" " * 512

    with Served(tiny_model_dir, config=config) as served:
        for content in (b" " * 1025, pieces()):
            response = served.client.post(CHAT, content=content)
            error = refusal(response, 413, "payload_too_large")
            assert "1024 bytes" in error["message"]
        body = json.dumps(chat_body(max_tokens=1)).encode()
        assert served.client.post(CHAT, content=body.ljust(1024)).status_code == 200


def test_a_full_queue(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(max_waiting=1))
    with Served(tiny_model_dir, FakeRunner(max_slots=1), config) as served:
        served.answer_forever()
        served.runner.gate.clear()
        with (
            raw_request(served.address, CHAT, chat_body()),
            raw_request(served.address, CHAT, chat_body()),
        ):
            wait_until(lambda: served.num_open == 2)
            for stream in (False, True):
                response = served.chat(stream=stream)
                refusal(response, 429, "queue_full", "rate_limit_error")
                assert int(response.headers["retry-after"]) >= 1
        served.runner.gate.set()
        served.check_no_leak()
        assert served.chat(max_tokens=1).status_code == 200


def test_loading_and_draining(tiny_model_dir: Path) -> None:
    served = Served(tiny_model_dir, wait=False)
    served.runner.gate.clear()
    with served:
        for state in ("loading", "draining"):
            for stream in (False, True):
                response = served.chat(stream=stream)
                error = refusal(response, 503, "not_ready", "service_unavailable_error")
                assert state in error["message"]
                assert int(response.headers["retry-after"]) >= 1
            served.runner.gate.set()
            assert served.ready.wait(5)
            served.in_loop(served.appliance.stop_accepting)


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_dies(tiny_model_dir: Path, stream: bool) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        for _ in range(2):  # the request that saw it, and the ones behind
            response = served.chat(stream=stream)
            error = refusal(response, 500, "engine_dead", "server_error")
            assert "told to" in error["message"]
        assert served.client.get("/health/ready").status_code == 503
        assert [type(failure) for failure in served.failures] == [errors.EngineDeadError]


def test_a_request_that_takes_too_long(tiny_model_dir: Path) -> None:
    config = Config(engine=EngineConfig(request_timeout_s=0.05))
    with Served(tiny_model_dir, FakeRunner(step_s=0.01), config) as served:
        served.answer_forever()
        response = served.chat()
        error = refusal(response, 504, "deadline_exceeded", "server_error")
        assert "0.05 s" in error["message"]
        assert response.headers["x-should-retry"] == "false"
        served.check_no_leak()


def test_a_bug_of_ours_tells_no_secret(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    completer = served.service.completer
    served.service.completer = object()  # type: ignore[assignment]
    try:
        error = refusal(served.chat(), 500, "internal_error", "server_error")
    finally:
        served.service.completer = completer
    words = "internal error; see the service's log for request "
    assert error["message"].startswith(words)
    assert f"request {error['message'].removeprefix(words)}" in caplog.text
    assert "AttributeError" in caplog.text


def test_a_client_that_leaves_while_it_sends_is_no_error(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(served.address) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert served.chat().status_code == 200
    assert served.chat().status_code == 200
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


# What no route can raise, with the place where each of them ends.
NEVER_IN_A_ROUTE = {
    errors.ConfigError: "the command line, before anything is served",
    errors.ModelDirError: "the command line, or loading",
    errors.BindError: "the command line",
    errors.HostTuningError: "the command line",
    errors.OverloadError: "a base class",
    bench_errors.BenchError: "the measuring client",
    bench_errors.ServerUnreachableError: "the measuring client",
    UnusableCalibrationError: "reading the calibration, which is then ignored",
}


def subclasses(kind: type[errors.ApplianceError]) -> Iterator[type[errors.ApplianceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_every_error_that_reaches_a_route_has_an_answer() -> None:
    ours = {kind for kind in subclasses(errors.ApplianceError) if kind.__module__ != __name__}
    ours = {kind for kind in ours if kind.__module__.startswith("appliance.")}
    assert ours >= {errors.QueueFullError, bench_errors.ServerUnreachableError}
    assert set(ANSWERS) | set(NEVER_IN_A_ROUTE) == ours
    assert not set(ANSWERS) & set(NEVER_IN_A_ROUTE)


def test_the_answers_are_what_the_statuses_promise() -> None:
    for kind, answer in ANSWERS.items():
        if issubclass(kind, errors.RequestError):
            assert answer.type == INVALID and 400 <= answer.status < 500
        elif issubclass(kind, errors.OverloadError):
            assert answer.status in (429, 503)
        else:
            assert answer.type == "server_error" and answer.status >= 500


def test_the_readme_lists_every_answer() -> None:
    readme = Path(exceptions.__file__).with_name("README.md").read_text(encoding="utf-8")
    for answer in ANSWERS.values():
        assert f"\n| {answer.status} | `{answer.type}` | `{answer.code}` |" in readme


def test_a_subclass_answers_as_its_nearest_ancestor() -> None:
    class Narrow(errors.ContextLengthExceededError):
        pass

    assert answer_to(Narrow(2, 1, "prompt")) is ANSWERS[errors.ContextLengthExceededError]
    assert error_body(Narrow(2, 1, "prompt"), "id").error.param == "prompt"
    assert answer_to(ValueError()).status == 500
