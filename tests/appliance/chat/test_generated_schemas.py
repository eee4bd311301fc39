"""200 schemas, a model that says anything: every answer that came to its end fits its schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from appliance.chat.completer import Completer
from appliance.chat.completion import Completion
from appliance.chat.options import CompletionOptions
from appliance.chat.output_format import json_schema
from appliance.engine.sequence import FinishReason
from tests.appliance.chat.random_model import completer_on_a_random_model, exact
from tests.generated_schemas import Schema, SchemaMaker

MAX_TOKENS = 500
# Dates are enforced as they are written; whether that year has that day is another thing.
FORMATS = FormatChecker(formats=("ipv4", "uuid"))
KEYWORDS = (
    *("properties", "required", "items", "minItems", "maxItems", "prefixItems"),
    *("enum", "const", "anyOf", "$ref"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("pattern", "minLength", "maxLength", "format"),
)


def test_the_schemas_are_what_they_are_meant_to_be() -> None:
    schemas = [SchemaMaker(seed).make() for seed in range(200)]
    texts = [json.dumps(schema) for schema in schemas]
    assert len(set(texts)) >= 195
    for keyword in KEYWORDS:
        # In how many schemas, and not how often: one that has many does not make up for others.
        assert sum(f'"{keyword}"' in text for text in texts) >= 14, keyword
    assert sum(depth(schema) >= 3 for schema in schemas) >= 14
    for schema in schemas:
        Draft202012Validator.check_schema(schema)


def depth(schema: object) -> int:
    """How many objects stand within each other."""
    if isinstance(schema, list):
        return max(map(depth, schema), default=0)
    if not isinstance(schema, dict):
        return 0
    below = max(map(depth, schema.values()), default=0)
    return below + (schema.get("type") == "object")


@pytest.mark.parametrize(("first", "temperature"), [(0, 0.0), (50, 1.0), (100, 1.0), (150, 2.0)])
def test_every_whole_answer_fits(tiny_model_dir: Path, first: int, temperature: float) -> None:
    schemas = [SchemaMaker(seed).make() for seed in range(first, first + 50)]
    assert num_whole_answers_that_fit(tiny_model_dir, schemas, temperature) >= 38


@pytest.mark.model
def test_with_a_real_vocabulary(model_dir: Path) -> None:
    """Tokens of several characters, which end one thing and begin the next."""
    schemas = [SchemaMaker(seed).make() for seed in range(1000, 1050)]
    assert num_whole_answers_that_fit(model_dir, schemas, 1.0) >= 38


def num_whole_answers_that_fit(
    model_dir: Path, schemas: Sequence[Schema], temperature: float
) -> int:
    """How many answers came to an end before `MAX_TOKENS`; each of those fits.

    Its own schema, that is: most of them do not fit the next one, so the check is no empty one.
    """

    async def run() -> list[tuple[str, FinishReason | None]]:
        async with completer_on_a_random_model(model_dir) as completer:
            return await asyncio.gather(*(answer(completer, schema) for schema in schemas))

    async def answer(completer: Completer, schema: Schema) -> tuple[str, FinishReason | None]:
        grammar = await completer.grammar(json_schema(schema, "guided_json"))
        options = CompletionOptions(max_tokens=MAX_TOKENS, temperature=temperature)
        (completion,) = completer.complete("JSON", options, grammar)
        return await collected(completion)

    whole = strangers = 0
    validators = [
        Draft202012Validator(exact(json.dumps(schema)), format_checker=FORMATS)
        for schema in schemas
    ]
    for index, (text, reason) in enumerate(asyncio.run(run())):
        if reason is FinishReason.STOP:
            validators[index].validate(exact(text))
            whole += 1
            strangers += not validators[index - 1].is_valid(exact(text))
    assert strangers > 0.8 * whole
    return whole


async def collected(completion: Completion) -> tuple[str, FinishReason | None]:
    deltas = [delta async for delta in completion.deltas()]
    return "".join(delta.text for delta in deltas), deltas[-1].finish_reason
