"""Log-probabilities in both endpoints: exact, whole and streamed, whatever becomes of the text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.server import Served, events
from tests.tiny_model import IM_END, IM_START, PROMPT_END, VOCAB_SIZE

LOOKUP_OFF = Config(engine=EngineConfig(prompt_lookup=False))


class Opinionated(FakeRunner):
    """Says what it is told to, and has an opinion of every other token, too."""

    def logits_behind(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        noise = np.random.default_rng(list(token_ids)).normal(0, 1, VOCAB_SIZE)
        logits = noise.astype(np.float32)
        logits[self.next_token(token_ids)] += 12
        return logits


@pytest.fixture(scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from tests import tiny_model

    directory = tiny_model.make(tmp_path_factory.mktemp("logprobs") / "tiny")
    with Served(directory, Opinionated()) as served:
        yield served


@pytest.fixture
def served(_served: Served) -> Served:
    _served.reset()
    _served.answer("hello")
    return _served


def exact(served: Served, token_ids: Sequence[int]) -> NDArray[np.float64]:
    """The log-softmax behind these tokens, in float64."""
    logits = served.runner.logits_behind(token_ids).astype(np.float64)
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def prompt_of(content: str) -> list[int]:
    return [IM_START, *f"user\n{content}".encode(), IM_END, *b"\n", *PROMPT_END]


def entries(chunks: list[Any]) -> list[Any]:
    """The log-probabilities of all of a stream's tokens."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return [e for c in choices if c["logprobs"] for e in c["logprobs"]["content"]]


def asked(served: Served, stream: bool, **fields: Any) -> tuple[str, list[Any]]:
    """Text and log-probabilities of a chat."""
    response = served.chat(logprobs=True, stream=stream, temperature=0, **fields)
    if not stream:
        (choice,) = response.json()["choices"]
        assert choice["logprobs"].keys() == {"content", "refusal"}
        return choice["message"]["content"], choice["logprobs"]["content"]
    chunks = events(response)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas), entries(chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_tokens(served: Served, stream: bool) -> None:
    text, tokens = asked(served, stream, top_logprobs=4)
    assert text == "hello" == "".join(token["token"] for token in tokens)
    said = prompt_of("hi")
    for token, byte in zip(tokens, b"hello", strict=True):
        expected = exact(served, said)
        assert (token["token"], token["bytes"]) == (chr(byte), [byte])
        assert token["logprob"] == pytest.approx(expected[byte], abs=1e-5)
        likely = np.argsort(-expected)[:4]
        assert [top["logprob"] for top in token["top_logprobs"]] == pytest.approx(
            expected[likely], abs=1e-5
        )
        for top, i in zip(token["top_logprobs"], likely, strict=True):
            assert top.keys() == {"token", "logprob", "bytes"}
            assert i >= 256 or top["bytes"] == [i]
        said.append(byte)


def test_each_chunk_has_the_tokens_of_its_own_text(served: Served) -> None:
    served.answer("aé你👍")
    chunks = events(served.chat(logprobs=True, stream=True, temperature=0))
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        read = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
        assert read.decode() == choice["delta"]["content"]
        assert all(entry["top_logprobs"] == [] for entry in choice["logprobs"]["content"])
    assert chunks[-1]["choices"][0]["logprobs"] is None


def test_bytes_that_are_no_text_are_written_out(served: Served) -> None:
    served.answer("你")
    _, tokens = asked(served, stream=False)
    assert [token["token"] for token in tokens] == ["\\xe4", "\\xbd", "\\xa0"]
    assert bytes(byte for token in tokens for byte in token["bytes"]).decode() == "你"


def test_a_special_token_goes_by_its_name(served: Served) -> None:
    _, tokens = asked(served, stream=False, ignore_eos=True, max_tokens=7)
    assert [token["token"] for token in tokens[5:]] == ["<|im_end|>"] * 2
    assert bytes(tokens[5]["bytes"]) == b"<|im_end|>"
    streamed = asked(served, stream=True, ignore_eos=True, max_tokens=7)[1]
    assert [token["token"] for token in streamed] == [token["token"] for token in tokens]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("l", "he"), ("llo", "he"), ("hello", ""), ("lx", "hello"), (["o", "ell"], "h")],
)
def test_tokens_of_a_stop_string_stand_nowhere(
    served: Served, stop: Any, text: str, stream: bool
) -> None:
    got, tokens = asked(served, stream, stop=stop)
    assert got == text == "".join(token["token"] for token in tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_they_are_the_same_with_drafts_and_without(tiny_model_dir: Path, stream: bool) -> None:
    words = "one two three one two three one two three "
    seen = []
    for config in (Config(), LOOKUP_OFF):
        with Served(tiny_model_dir, Opinionated(), config) as served:
            served.answer(words)
            seen.append(asked(served, stream, content=words, top_logprobs=2))
            steps = [chunk for step in served.runner.passes for chunk in step]
            drafted = any(chunk.num_logits > 1 for chunk in steps)
            assert drafted is (config is not LOOKUP_OFF)
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == len(words)


def test_temperature_and_bias_do_not_change_them(served: Served) -> None:
    plain = asked(served, False, max_tokens=1, top_logprobs=3)[1][0]
    bias = {str(ord("z")): 100}
    biased = served.chat(
        logprobs=True, top_logprobs=3, max_tokens=1, temperature=1.5, logit_bias=bias
    ).json()["choices"][0]["logprobs"]["content"][0]
    assert biased["token"] == "z" and biased["logprob"] < -5
    assert biased["top_logprobs"] == plain["top_logprobs"]


def test_none_are_there_unless_asked_for(served: Served) -> None:
    for fields in ({}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}):
        assert served.chat(**fields).json()["choices"][0]["logprobs"] is None
        assert entries(events(served.chat(stream=True, **fields))) == []
    assert served.complete("a:").json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 3, "logprobs": False}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
    ],
)
def test_what_a_chat_cannot_ask_for(served: Served, fields: dict[str, Any], param: str) -> None:
    response = served.chat(**fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("value", [21, -1, True, "3"])
def test_what_a_text_completion_cannot_ask_for(served: Served, value: Any) -> None:
    response = served.complete("a:", logprobs=value)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logprobs")


@pytest.mark.parametrize("num_top", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_completions_lists(served: Served, num_top: int, stream: bool) -> None:
    served.answer("h你o", behind=b":")
    response = served.complete("say:", logprobs=num_top, temperature=0, stream=stream)
    if stream:
        parts = [c["logprobs"] for chunk in events(response) for c in chunk["choices"]]
        lists = {name: [x for part in parts for x in part[name]] for name in parts[0]}
    else:
        lists = response.json()["choices"][0]["logprobs"]
    assert lists["tokens"] == ["h", "bytes:\\xe4", "bytes:\\xbd", "bytes:\\xa0", "o"]
    assert lists["text_offset"] == [0, 1, 1, 1, 2]
    said = list(b"say:")
    answer = "h你o".encode()
    for place, byte in enumerate(answer):
        expected = exact(served, said)
        assert lists["token_logprobs"][place] == pytest.approx(expected[byte], abs=1e-5)
        top = lists["top_logprobs"][place]
        assert top[lists["tokens"][place]] == lists["token_logprobs"][place]
        assert max(1, num_top) <= len(top) <= num_top + 1
        if num_top:
            assert max(top.values()) == pytest.approx(expected.max(), abs=1e-5)
        said.append(byte)


def test_openais_client_reads_them(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        fields: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        fields["temperature"] = 0
        whole = client.chat.completions.create(**fields, logprobs=True, top_logprobs=20)
        content = whole.choices[0].logprobs.content
        assert [token.token for token in content] == list("hello")
        assert all(len(token.top_logprobs) == 20 for token in content)
        assert all(token.top_logprobs[0].logprob <= 0 for token in content)
        with client.chat.completions.stream(**fields, logprobs=True, top_logprobs=1) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].logprobs.content[0].bytes == [ord("h")]
        assert len(final.choices[0].logprobs.content) == 5
        served.answer("hello", behind=b":")
        text = client.completions.create(model="tiny", prompt="say:", logprobs=2, temperature=0)
        assert text.choices[0].logprobs.tokens == list("hello")
        assert text.choices[0].logprobs.text_offset == [0, 1, 2, 3, 4]
