"""Structured output through OpenAI's own client, with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.served_process import ServedProcess

TEXT = "Anna Schmidt, 41, is a nurse in Hamburg. She speaks German and French."


class Language(str, Enum):
    GERMAN = "German"
    FRENCH = "French"
    OTHER = "other"


class Address(BaseModel):
    city: str
    country: str | None


class Person(BaseModel):
    """What the client makes a strict schema of, with $defs and $ref."""

    name: str
    age: int
    address: Address
    languages: list[Language]


@pytest.fixture(scope="module")
def served(model_dir: Path) -> Iterator[ServedProcess]:
    with ServedProcess(model_dir) as served:
        yield served


@pytest.fixture
def client(served: ServedProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def asked(served: ServedProcess, **fields: Any) -> Any:
    messages = [{"role": "user", "content": f"Extract the person as JSON: {TEXT}"}]
    return {
        "model": served.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": 200,
        **fields,
    }


@pytest.mark.model
def test_parse_gives_an_object_of_the_class(client: OpenAI, served: ServedProcess) -> None:
    answer = client.chat.completions.parse(**asked(served, response_format=Person))
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    person = choice.message.parsed
    assert isinstance(person, Person) and isinstance(person.address, Address)
    assert "Anna" in person.name


@pytest.mark.model
def test_the_client_s_stream_of_it(client: OpenAI, served: ServedProcess) -> None:
    fields = asked(served, response_format=Person)
    with client.chat.completions.stream(**fields) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    parsed = final.choices[0].message.parsed
    assert isinstance(parsed, Person)
    assert Person.model_validate_json(text) == parsed


@pytest.mark.model
def test_several_forms_at_once_beside_free_text(client: OpenAI, served: ServedProcess) -> None:
    schema = {"name": "person", "schema": Person.model_json_schema()}
    forms: list[dict[str, Any]] = [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": schema}},
        {"extra_body": {"guided_choice": ["nurse", "doctor"]}},
        {"extra_body": {"guided_regex": "[0-9]{2}"}},
        {},
    ]

    def answer(fields: dict[str, Any]) -> tuple[str, str]:
        (choice,) = client.chat.completions.create(**asked(served, **fields)).choices
        return choice.message.content or "", choice.finish_reason

    with ThreadPoolExecutor(len(forms)) as pool:
        any_object, person, job, age, free = pool.map(answer, forms)
    if any_object[1] == "stop":
        assert isinstance(json.loads(any_object[0]), dict)
    assert any_object[0].startswith("{")
    assert person[1] == "stop" and Person.model_validate_json(person[0])
    assert job in (("nurse", "stop"), ("doctor", "stop"))
    assert age[1] == "stop" and age[0].isdigit() and len(age[0]) == 2
    assert free[0]


@pytest.mark.model
def test_drafts_and_a_form_together(client: OpenAI, served: ServedProcess) -> None:
    """The prompt holds most of the answer, so most tokens of it come as accepted drafts."""
    known = '{"name": "Anna Schmidt", "age": 41, "address": {"city": "Hamburg", "country": null}'
    fields = asked(served, response_format=Person)
    fields["messages"][0]["content"] = f"{known * 2} Repeat this JSON: {known}"
    answer = client.chat.completions.parse(**fields)
    assert answer.choices[0].message.parsed is not None


@pytest.mark.model
def test_a_schema_that_cannot_be_enforced(client: OpenAI, served: ServedProcess) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "years"}}}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked(served, response_format=form))
    assert caught.value.param == "response_format"
    assert "schema.properties.age" in caught.value.message
