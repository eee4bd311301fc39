"""`GET /docs`: the service's own OpenAPI document, from the box alone, and whether it is true.

`tests/clients/test_generated_calls.py` makes thousands of calls of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from appliance.access.key_file import make_key, write_keys
from appliance.api.exceptions import ANSWERS
from appliance.api.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    RESPONSE_PARAMETERS,
    Support,
)
from appliance.api.response_events import EVENTS
from appliance.api.routes import ROUTES
from appliance.config import Config, ServerConfig
from tests.server import CHAT, COMPLETIONS, RESPONSES, Served, chat_body, named_events

TOKENIZE, DETOKENIZE = "/v1/tokenize", "/v1/detokenize"
GENERATION = {200, 400, 404, 413, 429, 500, 503, 504}
STATUSES = {
    CHAT: GENERATION,
    COMPLETIONS: GENERATION,
    RESPONSES: GENERATION,
    TOKENIZE: {200, 400, 404, 413, 500, 503},
    DETOKENIZE: {200, 400, 404, 413, 500, 503},
    "/v1/models": {200, 500},
    "/v1/models/{model}": {200, 404, 500},
    "/health/live": {200, 500},
    "/health/ready": {200, 500, 503},
    "/metrics": {200, 500},
}
OPEN = {"/health/live", "/health/ready"}
BODIES = {
    CHAT: chat_body(max_tokens=1),
    COMPLETIONS: {"model": "tiny", "prompt": "hi", "max_tokens": 1},
    RESPONSES: {"model": "tiny", "input": "hi", "max_output_tokens": 1},
    TOKENIZE: {"prompt": "hi"},
    DETOKENIZE: {"tokens": [104]},
}


@pytest.fixture
def document(served: Served) -> Any:
    return served.client.get("/docs").json()


def operation(document: Any, path: str) -> Any:
    (found,) = document["paths"][path].values()
    return found


def body_schema(document: Any, path: str) -> Any:
    body = operation(document, path)["requestBody"]["content"]["application/json"]["schema"]
    return document["components"]["schemas"][body["$ref"].rpartition("/")[2]]


def codes(document: Any, path: str) -> set[str]:
    """Every code of an error that the document says the route may answer."""
    found = re.findall(r'"code": \{"enum": \[(.*?)\]', json.dumps(operation(document, path)))
    return {code for codes in found for code in json.loads(f"[{codes}]")}


@pytest.mark.parametrize("path", ["/docs", "/docs/openapi.json"])
def test_the_document_names_every_route(served: Served, path: str) -> None:
    response = served.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    served_paths = {re.sub(r":\w+\}", "}", path) for route in ROUTES for path in route.paths}
    assert set(response.json()["paths"]) == served_paths == set(STATUSES)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere(document: Any) -> None:
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(document)))
    assert references == {f"#/components/schemas/{name}" for name in schemas}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    for path in STATUSES:
        for response in operation(document, path)["responses"].values():
            for content in response["content"].values():
                Draft202012Validator.check_schema(content["schema"])


@pytest.mark.parametrize("path", STATUSES)
def test_every_status_that_a_route_may_answer(document: Any, path: str) -> None:
    responses = operation(document, path)["responses"]
    assert {int(status) for status in responses} == STATUSES[path]
    for status, response in responses.items():
        assert "X-Request-Id" in response["headers"]
        assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
        assert ("x-should-retry" in response["headers"]) == (status == "504")


def test_every_code_of_the_table_of_errors(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_keys(tmp_path / "keys", [make_key("ann")[1]])
    server = ServerConfig(api_keys_file=tmp_path / "keys", requests_per_minute=5)
    with Served(tiny_model_dir, config=Config(server=server)) as served:
        document = served.client.get("/docs").json()
    told = {answer.code for answer in ANSWERS.values()} | {"internal_error"}
    assert told == codes(document, CHAT) == codes(document, COMPLETIONS)
    assert told == codes(document, RESPONSES)
    assert codes(document, "/health/live") == {"internal_error"}
    for path in STATUSES:
        statuses = set(operation(document, path)["responses"])
        assert ("401" in statuses) == (path not in OPEN)
        assert ("rate_limit_exceeded" in codes(document, path)) == path.startswith("/v1/")
        # What is open says so: the document asks for a key everywhere else.
        assert operation(document, path).get("security") == ([] if path in OPEN else None)
    assert document["security"] == [{"APIKey": []}]


def test_streams_are_told_with_their_events(document: Any) -> None:
    for path, chunk in ((CHAT, "ChatCompletionChunk"), (COMPLETIONS, "TextCompletion")):
        content = operation(document, path)["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        event = json.dumps(content["text/event-stream"])
        assert f"/{chunk}" in event and "/ErrorBody" in event and "[DONE]" in event


def test_named_events_are_told_with_their_names(served: Served, document: Any) -> None:
    content = operation(document, RESPONSES)["responses"]["200"]["content"]
    fields = content["text/event-stream"]["schema"]["properties"]
    assert len(fields["event"]["enum"]) == len(EVENTS) == 14
    assert len(fields["data"]["contentSchema"]["anyOf"]) == 14
    schema = {**fields["data"]["contentSchema"], "components": document["components"]}
    validator = Draft202012Validator(schema)
    found = named_events(served.respond(stream=True))
    for event in found:
        assert event["type"] in fields["event"]["enum"]
        validator.validate(event)
        assert not validator.is_valid({**event, "type": "response.other"})


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (CHAT, CHAT_PARAMETERS),
        (COMPLETIONS, COMPLETION_PARAMETERS),
        (RESPONSES, RESPONSE_PARAMETERS),
    ],
)
def test_every_parameter_is_told_with_what_becomes_of_it(
    document: Any, path: str, parameters: Any
) -> None:
    fields = body_schema(document, path)["properties"]
    assert set(fields) == {parameter.name for parameter in parameters}
    for parameter in parameters:
        words = fields[parameter.name]["description"]
        assert parameter.note in words
        if parameter.support is not Support.SUPPORTED:
            assert words.startswith(parameter.support.value)
        if parameter.support is Support.REFUSED:
            assert fields[parameter.name]["enum"] == [None, *parameter.harmless]


@pytest.mark.parametrize("path", BODIES)
def test_the_model_is_the_served_one_and_the_examples_work(
    served: Served, document: Any, path: str
) -> None:
    names = body_schema(document, path)["properties"]["model"]["enum"]
    assert names == (["tiny"] if path in (CHAT, COMPLETIONS, RESPONSES) else ["tiny", None])
    examples = operation(document, path)["requestBody"]["content"]["application/json"]["examples"]
    assert examples
    for example in examples.values():
        assert served.client.post(path, json=example["value"]).status_code == 200


def ranges(schema: Any) -> Iterator[tuple[str, str, float]]:
    """Name of the field, keyword and limit, for every number of a body that has one."""
    for name, field in schema["properties"].items():
        for kind in field.get("anyOf", [field]):
            for keyword in ("minimum", "maximum"):
                if keyword in kind:
                    yield name, keyword, kind[keyword]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_every_range_is_the_one_that_is_enforced(served: Served, document: Any, path: str) -> None:
    needed = {"top_logprobs": {"logprobs": True}}
    refused: set[str] = set()
    if path == RESPONSES:
        needed["top_logprobs"] = {"include": ["message.output_text.logprobs"]}
        refused = {p.name for p in RESPONSE_PARAMETERS if p.support is Support.REFUSED}
    found = [one for one in ranges(body_schema(document, path)) if one[0] not in refused]
    assert len(found) >= 17
    for name, keyword, limit in found:
        beyond = limit + (-1 if keyword == "minimum" else 1) * (1 if limit == int(limit) else 0.005)
        for value, status in ((limit, 200), (beyond, 400)):
            body = {**BODIES[path], **needed.get(name, {}), name: value}
            response = served.client.post(path, json=body)
            assert response.status_code == status, (name, value, response.text)
            if status == 400:
                assert response.json()["error"]["param"] == name


def test_a_functions_name_holds_no_line_break(served: Served) -> None:
    """In Python's regular expressions `$` stands before one, too; in those of JSON schemas not."""
    tools = [{"type": "function", "function": {"name": "f\n"}}]
    response = served.chat(tools=tools)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
