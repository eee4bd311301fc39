"""Eight conversations at once on both variants, through OpenAI's client and a real model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from openai.types import CompletionUsage

from tests.served_process import ServedProcess

TOPICS = ("rain", "bread", "trains", "rivers", "music", "winter", "maps", "stars")


async def chat(client: AsyncOpenAI, model: str, topic: str) -> tuple[list[str], CompletionUsage]:
    """One streamed chat: its pieces of text, and its usage."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Tell me about {topic}."}],
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    async for chunk in stream:
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    assert usage is not None
    return pieces, usage


async def all_at_once(url: str, model: str) -> list[tuple[list[str], CompletionUsage]]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        return await asyncio.gather(*(chat(client, model, topic) for topic in TOPICS))


@pytest.mark.model
@pytest.mark.parametrize("kv_cache", ["stateful", "paged"])
def test_eight_chats_stream_together_and_all_are_known_afterwards(
    model_dir: Path, tmp_path: Path, kv_cache: str
) -> None:
    setting = f"engine.kv_cache={kv_cache}"
    with ServedProcess(model_dir, setting, cache_dir=tmp_path) as served:
        first = asyncio.run(all_at_once(served.url, served.model))
        again = asyncio.run(all_at_once(served.url, served.model))
    texts = ["".join(pieces) for pieces, _ in first]
    assert all(texts) and len(set(texts)) > 1
    assert all(len(pieces) > 3 for pieces, _ in first), "streamed, not sent at once"
    for _, usage in again:
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1
