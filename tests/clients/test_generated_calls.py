"""Calls that schemathesis makes of the OpenAPI document: right ones, wrong ones, strange ones.

Every answer is held to the document: its status, its content type, its headers and its body, each
event of a stream too; a call that the document does not allow must be refused, and none may bring
a 5xx. The calls are the same in every run.
"""

from __future__ import annotations

import collections
import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.access.key_file import make_key, write_keys
from appliance.config import Config, ServerConfig
from tests.server import CHAT, COMPLETIONS, RESPONSES, Served

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

SEED = 20
GENERATING = (CHAT, COMPLETIONS, RESPONSES)


@dataclass
class Findings:
    """How often a route answered what, how often as a stream, and what is wrong with that."""

    statuses: collections.Counter[tuple[str, int]] = field(default_factory=collections.Counter)
    streams: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def num_calls(self) -> int:
        return sum(self.statuses.values())

    def check(self) -> None:
        assert not self.wrong, "\n\n".join(f"{what}\n{how}" for what, how in self.wrong.items())

    def note(self, recorder: Any) -> None:
        route = recorder.label.partition(" ")[2]
        for interaction in recorder.interactions.values():
            response = interaction.response
            assert response is not None, interaction.request.uri
            self.statuses[route, response.status_code] += 1
            if response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
                self.streams[route] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    response = recorder.interactions[case_id].response
                    self.wrong.setdefault(
                        f"{recorder.label}: {check.name}: {check.failure_info.failure.message}",
                        f"{check.failure_info.code_sample}\n"
                        f"{response.status_code} {response.content!r}",
                    )


def call(
    url: str,
    document: dict[str, Any],
    max_examples: int,
    *,
    key: str | None = None,
    judges_wrong_calls: bool = True,
) -> Findings:
    """Make calls of every route: the document's examples, its limits, `max_examples` at random."""
    import schemathesis
    from schemathesis import engine
    from schemathesis.engine import events

    schema = schemathesis.openapi.from_dict(document)
    config = schema.config
    config.update(base_url=url)
    config.seed = SEED
    config.headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    config.generation.max_examples = max_examples
    config.generation.deterministic = True
    config.generation.no_shrink = True
    config.generation.database = "none"
    # Some parameters exclude each other, which the document only says in words: a 400 all the same.
    config.checks.positive_data_acceptance.enabled = False
    config.checks.negative_data_rejection.enabled = judges_wrong_calls
    config.phases.stateful.enabled = False
    findings = Findings()
    for event in engine.from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            findings.note(event.recorder)
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.NonFatalError):
            findings.wrong[f"{event.label}: an error"] = str(event.info)
    return findings


def only(document: dict[str, Any], method: str) -> dict[str, Any]:
    """The routes with that method."""
    paths = {path: item for path, item in document["paths"].items() if method in item}
    return {**document, "paths": paths}


def streaming_only(document: dict[str, Any]) -> dict[str, Any]:
    """The generating routes alone, with no request that asks for no stream."""
    document = copy.deepcopy(document)
    document["paths"] = {path: document["paths"][path] for path in GENERATING}
    for path in GENERATING:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body["examples"] = {"streamed": body["examples"]["streamed"]}
        schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
        schema["properties"]["stream"] = {"const": True}
        schema["required"].append("stream")
    return document


def test_two_thousand_calls(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir) as served:
        served.answer("hello world")
        document = served.client.get("/docs").json()
        posts = call(served.url, only(document, "post"), 170)
        gets = call(served.url, only(document, "get"), 10)
        posts.check()
        gets.check()
        assert posts.num_calls >= 2000
        for route in GENERATING:
            assert posts.statuses[route, 200] >= 200, "too few calls came to an answer"
            assert posts.statuses[route, 400] >= 200
        assert {route for route, _ in posts.statuses | gets.statuses} == set(document["paths"])
        served.check_no_leak()


def test_streams(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir) as served:
        served.answer("hello world")
        document = streaming_only(served.client.get("/docs").json())
        # A call that says `"stream": false` is right, though wrong in this document.
        findings = call(served.url, document, 30, judges_wrong_calls=False)
        findings.check()
        for route in GENERATING:
            assert findings.streams[route] >= 150
        served.check_no_leak()


def test_with_api_keys(tmp_path: Path, tiny_model_dir: Path) -> None:
    """With a key all is as without, and every call without one, or with another, is a 401."""
    key, record = make_key("ann")
    write_keys(tmp_path / "api-keys", [record])
    config = Config(server=ServerConfig(api_keys_file=tmp_path / "api-keys"))
    with Served(tiny_model_dir, config=config) as served:
        served.answer("hello world")
        document = served.client.get("/docs").json()
        for path in GENERATING:  # called without a key above
            document["paths"][path]["post"]["requestBody"]["content"]["application/json"][
                "schema"
            ] = {}
        findings = call(served.url, document, 5, key=key, judges_wrong_calls=False)
        findings.check()
        for route in (*GENERATING, "/v1/models", "/v1/tokenize", "/metrics"):
            assert findings.statuses[route, 200] and findings.statuses[route, 401]
        assert not findings.statuses["/health/live", 401]
