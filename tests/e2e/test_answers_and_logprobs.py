"""Several answers and log-probabilities on both variants: OpenAI's client, a real model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.served_process import ServedProcess


@pytest.fixture(scope="module", params=["stateful", "paged"])
def served(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[ServedProcess]:
    with ServedProcess(model_dir, f"engine.kv_cache={request.param}") as served:
        yield served


@pytest.fixture
def client(served: ServedProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", timeout=60, max_retries=0) as client:
        yield client


def fields(served: ServedProcess, content: str, **more: Any) -> dict[str, Any]:
    return {"model": served.model, "messages": [{"role": "user", "content": content}], **more}


def prefilled(served: ServedProcess) -> int:
    text = served.client.get("/metrics").text
    found = re.search(r"^qwen_appliance_prefill_tokens_total (\S+)", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


@pytest.mark.model
def test_four_answers_cost_one_prefill(client: OpenAI, served: ServedProcess) -> None:
    content = "Tell me about one of these: " + ", ".join(f"topic number {i}" for i in range(60))
    before = prefilled(served)
    answer = client.chat.completions.create(
        **fields(served, content, n=4, seed=3, temperature=1.2, max_tokens=16)
    )
    texts = [choice.message.content for choice in answer.choices]
    assert len(texts) == 4 and len(set(texts)) > 1
    assert answer.usage is not None
    num_prompt = answer.usage.prompt_tokens
    cached = answer.usage.prompt_tokens_details.cached_tokens or 0
    assert num_prompt > 200 and cached < 50
    # Each of the other three computes the last token of the prompt, whose logits it needs.
    assert prefilled(served) - before == num_prompt - cached + 3


@pytest.mark.model
def test_the_greedy_answer_is_made_of_the_likeliest_tokens(
    client: OpenAI, served: ServedProcess
) -> None:
    """The prompt is one that drafts are made for, so several tokens come out of many steps."""
    content = "Repeat word for word: 你好 👩‍👩‍👧 one two three, one two three, one two three."
    asked = fields(served, content, temperature=0, max_tokens=40, logprobs=True, top_logprobs=5)
    answer = client.chat.completions.create(**asked)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    text = b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "replace")
    assert text == answer.choices[0].message.content
    for token in tokens:
        likelihoods = [top.logprob for top in token.top_logprobs]
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert token.logprob == likelihoods[0] <= 0
        assert 0 < sum(map(math.exp, likelihoods)) <= 1.0001


@pytest.mark.model
def test_a_stream_brings_the_same_tokens(client: OpenAI, served: ServedProcess) -> None:
    asked = fields(served, "What is 2+2?", temperature=0, max_tokens=20, logprobs=True)
    client.chat.completions.create(**asked)
    whole = client.chat.completions.create(**asked).choices[0].logprobs.content
    chunks = client.chat.completions.create(**asked, stream=True)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    streamed = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in whole]
    for ours, theirs in zip(streamed, whole, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=0.3)
