"""Side requests, stop and regenerate, edited history, prefill: both variants, a real model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.served_process import ServedProcess


@pytest.fixture(scope="module", params=["stateful", "paged"])
def served(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[ServedProcess]:
    with ServedProcess(model_dir, f"engine.kv_cache={request.param}") as served:
        yield served


@pytest.fixture
def client(served: ServedProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", timeout=60, max_retries=0) as client:
        yield client


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def fields(served: ServedProcess, *messages: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"model": served.model, "messages": list(messages), "temperature": 0, **more}


def cached(answer: Any) -> int:
    return int(answer.usage.prompt_tokens_details.cached_tokens)


@pytest.mark.model
def test_a_chat_is_known_after_its_side_requests(served: ServedProcess) -> None:
    history = user("Tell me a long story about a ship that sails around the world.")

    async def run() -> tuple[Any, list[Any], Any]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            chat = asyncio.create_task(
                client.chat.completions.create(**fields(served, history, max_tokens=80))
            )
            tasks = ("a title", "three tags", "a follow-up question")
            side = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        **fields(served, user(f"Write {task} for: {history['content']}")),
                        max_tokens=8,
                    )
                    for task in tasks
                )
            )
            answer = await chat
            said = {"role": "assistant", "content": answer.choices[0].message.content}
            turn = fields(served, history, said, user("Go on."), max_tokens=4)
            return answer, list(side), await client.chat.completions.create(**turn)

    answer, side, turn = asyncio.run(run())
    assert all(one.choices[0].message.content for one in side)
    assert cached(turn) >= answer.usage.prompt_tokens


@pytest.mark.model
def test_stop_and_regenerate(client: OpenAI, served: ServedProcess) -> None:
    asked = fields(served, user("Count from 1 to 40."), max_tokens=60)
    client.chat.completions.create(**asked)  # from now on the prompt is known
    whole = client.chat.completions.create(**asked).choices[0].message.content
    for _ in range(3):
        with client.chat.completions.create(**asked, stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == 5:
                    break
        again = client.chat.completions.create(**asked)
        assert cached(again) == again.usage.prompt_tokens - 1
        assert again.choices[0].message.content[:20] == whole[:20]


@pytest.mark.model
def test_an_edited_history_shares_what_is_still_the_same(
    client: OpenAI, served: ServedProcess
) -> None:
    said = {"role": "assistant", "content": "I see."}
    begun = {"role": "assistant", "content": "Your favourite color is"}
    for color in ("blue", "green"):
        messages = [user(f"My favourite color is {color}."), said, user("What is it?"), begun]
        answer = client.chat.completions.create(**fields(served, *messages, max_tokens=4))
        assert answer.choices[0].message.content.startswith(f" {color}")
    assert 0 < cached(answer) < answer.usage.prompt_tokens / 2 + 10


@pytest.mark.model
def test_a_begun_answer_goes_on(client: OpenAI, served: ServedProcess) -> None:
    begun = {"role": "assistant", "content": "1, 2, 3, 4, 5,"}
    asked = fields(served, user("Count from 1 to 20."), begun, max_tokens=8)
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content.startswith(" 6, 7")
