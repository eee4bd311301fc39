"""Forms that an answer must have, over HTTP: the model wants something else every time."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import FakeRunner
from tests.server import Served, events
from tests.tiny_model import IM_END

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[a-z]{3,8}$"},
        "days": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
STRICT = {"type": "json_schema", "json_schema": {**JSON_SCHEMA["json_schema"], "strict": True}}  # type: ignore[dict-item]
YES_NO = 'root ::= "yes" | "no"'
MALFORMED = {"type": "object", "properties": {"city": {"type": "town"}}}


def is_weather(text: str) -> bool:
    value = json.loads(text)
    assert list(value) == ["city", "days", "unit"]
    assert 3 <= len(value["city"]) <= 8 and value["city"].islower()
    assert len(value["days"]) <= 3 and all(type(day) is int for day in value["days"])
    return value["unit"] in ("c", "f")


FORMS: list[tuple[dict[str, Any], Any]] = [
    ({"response_format": {"type": "json_object"}}, lambda text: type(json.loads(text)) is dict),
    ({"response_format": JSON_SCHEMA}, is_weather),
    ({"response_format": STRICT}, is_weather),
    ({"guided_json": SCHEMA}, is_weather),
    ({"guided_json": json.dumps(SCHEMA)}, is_weather),
    ({"structured_outputs": {"json": SCHEMA}}, is_weather),
    ({"structured_outputs": {"json_object": True}}, lambda text: json.loads(text) is not None),
    ({"guided_regex": "[0-9]{2}:[0-9]{2}"}, lambda text: len(text) == 5 and text[2] == ":"),
    ({"structured_outputs": {"regex": "a{4}"}}, lambda text: text == "aaaa"),
    ({"guided_choice": ["red", "green"]}, lambda text: text in ("red", "green")),
    ({"structured_outputs": {"choice": ["é👍🏽"]}}, lambda text: text == "é👍🏽"),
    ({"guided_grammar": YES_NO}, lambda text: text in ("yes", "no")),
    ({"structured_outputs": {"grammar": YES_NO}}, lambda text: text in ("yes", "no")),
]
FORM = pytest.mark.parametrize(("fields", "fits"), FORMS, ids=lambda value: str(value)[:60])
ENDPOINT = pytest.mark.parametrize("endpoint", ["chat", "complete"])


def wilful(served: Served) -> None:
    """A model that wants to end at once, then to chat, and closes what it is made to open."""
    text = b"Sure! Here is the weather: "

    def logits_behind(token_ids: Any) -> NDArray[np.float32]:
        noise = np.random.default_rng(sum(token_ids) + len(token_ids))
        logits = noise.normal(0, 1, served.runner.limits.vocab_size).astype(np.float32)
        logits[IM_END] = 9
        logits[text[len(token_ids) % len(text)]] = 8
        logits[list(b'"}]')] = 8.5
        return logits

    served.runner.logits_behind = logits_behind  # type: ignore[method-assign]


@pytest.fixture
def model(served: Served) -> Any:
    """The server, whose model is wilful for this test."""
    wilful(served)
    yield served
    del served.runner.logits_behind
    assert served.runner.logits_behind.__func__ is FakeRunner.logits_behind  # type: ignore[attr-defined]


def ask(served: Served, endpoint: str, **fields: Any) -> Any:
    return getattr(served, endpoint)(**{"max_tokens": 300, **fields})


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@FORM
@ENDPOINT
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_the_answer_has_the_form(
    model: Served, endpoint: str, fields: dict[str, Any], fits: Any, temperature: float
) -> None:
    assert fits(text_of(ask(model, endpoint, temperature=temperature, seed=3, **fields)))


@FORM
def test_a_stream_says_the_same(model: Served, fields: dict[str, Any], fits: Any) -> None:
    whole = text_of(ask(model, "chat", temperature=1, seed=5, **fields))
    chunks = events(ask(model, "chat", temperature=1, seed=5, stream=True, **fields))
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert "".join(delta["delta"].get("content", "") for delta in deltas) == whole
    assert deltas[-1]["finish_reason"] == "stop"
    assert fits(whole)


def test_text_is_any_text(served: Served) -> None:
    assert text_of(served.chat(response_format={"type": "text"})) == "hello"
    assert text_of(served.chat(structured_outputs={"json_object": False})) == "hello"


def test_a_list_of_prompts_has_the_form_each(model: Served) -> None:
    response = model.complete(["a", "b", "c"], max_tokens=300, guided_json=SCHEMA)
    texts = [choice["text"] for choice in response.json()["choices"]]
    assert len(texts) == 3 and all(map(is_weather, texts))


def test_cut_by_max_tokens_it_says_so(model: Served) -> None:
    (choice,) = ask(model, "chat", response_format=JSON_SCHEMA, max_tokens=7).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("{")


def test_a_stop_string_ends_it_before_its_form_is_whole(model: Served) -> None:
    assert text_of(ask(model, "chat", guided_choice=["one,two"], stop=",")) == "one"


@ENDPOINT
@pytest.mark.parametrize("bias", [{str(ord("z")): 100}, {str(ord("{")): -100}])
def test_a_bias_cannot_break_it(model: Served, endpoint: str, bias: dict[str, int]) -> None:
    assert is_weather(text_of(ask(model, endpoint, guided_json=SCHEMA, logit_bias=bias)))


def test_with_and_without_a_form_side_by_side(model: Served) -> None:
    answers: dict[int, Any] = {}

    def chat(i: int) -> None:
        fields = {"response_format": JSON_SCHEMA} if i % 2 else {"max_tokens": 20}
        answers[i] = ask(model, "chat", content=f"question {i}", **fields)

    threads = [threading.Thread(target=chat, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(is_weather(text_of(answers[i])) for i in range(1, 8, 2))
    assert all(answers[i].json()["choices"][0]["message"] for i in range(0, 8, 2))


@ENDPOINT
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "start", "word"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x"} | {"schema": MALFORMED},
                }
            },
            "response_format.json_schema.schema.properties.city: ",
            "town",
        ),
        ({"guided_json": MALFORMED}, "guided_json.properties.city: ", "town"),
        (
            {"structured_outputs": {"json": MALFORMED}},
            "structured_outputs.json.properties.city: ",
            "town",
        ),
        ({"guided_json": "{not json"}, "guided_json: ", "malformed"),
        ({"guided_json": "[1]"}, "guided_json: ", "object"),
        ({"guided_regex": "(a"}, "guided_regex: ", "unclosed group"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar: ", "nothing"),
        ({"guided_choice": []}, "guided_choice: ", "length >= 1"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs: ", "structural_tag"),
        ({"response_format": {"type": "xml"}}, "response_format.type: ", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: ", "missing"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema.name: ",
            "missing",
        ),
        (
            {"response_format": {"type": "json_object"}, "guided_choice": ["a"]},
            "response_format and guided_choice ",
            "leave one out",
        ),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs.regex and structured_outputs.choice ",
            "leave one out",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_enforced_is_a_400_that_says_where(
    served: Served, endpoint: str, stream: bool, fields: dict[str, Any], start: str, word: str
) -> None:
    response = ask(served, endpoint, stream=stream, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_value")
    assert error["message"].startswith(start) and word in error["message"]
    assert error["param"] in fields
