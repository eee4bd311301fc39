"""500 texts of easily broken characters, in and out, streamed and whole; and bytes without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.chat.tokenizer import Tokenizer
from appliance.config import Config, EngineConfig
from appliance.model_dir import read_manifest
from tests import tiny_model
from tests.fakes import FakeRunner
from tests.server import CHAT, COMPLETIONS, Served, events
from tests.unicode_texts import KINDS, lone_bytes, texts

NUM_OF_A_KIND = 100
BROKEN = "\ufffd"


class Forced:
    """A "model" that answers each known prompt with the token ids it is told, and ends."""

    def __init__(self, start_id: int, prompt_end: Sequence[int], end_id: int) -> None:
        self._start_id = start_id
        self._length = len(prompt_end)
        self._end_id = end_id
        self.answers: dict[tuple[int, ...], Sequence[int]] = {}

    def __call__(self, token_ids: Sequence[int]) -> int:
        last = len(token_ids) - 1 - token_ids[::-1].index(self._start_id)
        prompt = tuple(token_ids[: last + self._length])
        said, answer = len(token_ids) - len(prompt), self.answers.get(prompt, ())
        return answer[said] if said < len(answer) else self._end_id


class Speaker:
    """A service whose model says what it is told, with a model directory's own tokenizer."""

    def __init__(self, served: Served, tokenizer: Tokenizer, prompt_end: Sequence[int]) -> None:
        assert isinstance(served.runner.next_token, Forced)
        self.served = served
        self.tokenizer = tokenizer
        self.prompt_end = prompt_end
        self.forced = served.runner.next_token
        self.id_of_byte = {
            written[0]: token_id
            for token_id in range(served.runner.limits.vocab_size)
            if len(written := tokenizer.token_bytes(token_id)) == 1
        }

    def post(self, path: str, **body: Any) -> Any:
        model = self.served.service.model_name
        response = self.served.client.post(path, json={"model": model, **body})
        assert response.status_code == 200, response.text
        return response

    def answers(self, path: str, text_of: Callable[[Any], str], **body: Any) -> tuple[str, str]:
        """The same answer, whole and as its stream's pieces; none of those is a broken one."""
        whole = text_of(self.post(path, temperature=0, **body).json()["choices"][0])
        chunks = events(self.post(path, temperature=0, stream=True, **body))
        pieces = [text_of(choice) for chunk in chunks for choice in chunk["choices"]]
        if BROKEN not in whole:
            assert not any(BROKEN in piece for piece in pieces)
        return whole, "".join(pieces)


@contextmanager
def speaker(model_dir: Path, *, drafts: bool) -> Iterator[Speaker]:
    tokenizer, manifest = Tokenizer(model_dir), read_manifest(model_dir)
    prompt_end = tokenizer.encode("<|im_start|>assistant\n")
    (end_id,) = tokenizer.encode("<|im_end|>")
    runner = FakeRunner(
        Forced(prompt_end[0], prompt_end, end_id), vocab_size=manifest.architecture.vocab_size
    )
    # The golden prompt has no beginning of an answer; what is said to it is no matter.
    forced, runner.next_token = runner.next_token, lambda _: end_id
    config = Config(engine=EngineConfig(prompt_lookup=drafts))
    with Served(model_dir, runner, config) as served:
        runner.next_token = forced
        yield Speaker(served, tokenizer, prompt_end)


@pytest.fixture(scope="module", params=["drafts", "no drafts"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token per byte: every character is split."""
    directory = tiny_model.make(tmp_path_factory.mktemp("unicode") / "tiny")
    with speaker(directory, drafts=request.param == "drafts") as one:
        yield one


@pytest.fixture(scope="module")
def real(model_dir: Path) -> Iterator[Speaker]:
    """The embedded model's vocabulary: some characters whole, most of them split anywhere."""
    with speaker(model_dir, drafts=True) as one:
        yield one


def chat_text(choice: Any) -> str:
    return (choice.get("message") or choice["delta"]).get("content") or ""


def check_chats(one: Speaker, told: Sequence[str]) -> None:
    """Each text is the user's message and the model's answer.

    The embedded model's vocabulary has no token for some control characters, which are left out.
    """
    told = ["".join(c for c in text if set(c.encode()) <= one.id_of_byte.keys()) for text in told]
    assert len(set(told) - {""}) >= 0.95 * NUM_OF_A_KIND

    def check(text: str) -> None:
        messages = [{"role": "user", "content": text}]
        prompt = one.post("/v1/tokenize", messages=messages).json()["tokens"]
        rendered = one.post("/v1/detokenize", tokens=prompt).json()["prompt"]
        assert f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" in rendered
        ids = one.tokenizer.encode(text)
        assert list(ids) == one.post("/v1/tokenize", prompt=text).json()["tokens"]
        assert one.post("/v1/detokenize", tokens=ids).json()["prompt"] == text
        one.forced.answers[tuple(prompt)] = ids
        assert one.answers(CHAT, chat_text, messages=messages) == (text, text)

    each(check, told)


def check_bytes(one: Speaker) -> None:
    """What is no text is marked, in the same places whether streamed or not, and no more of it."""
    told = [data for data in lone_bytes(NUM_OF_A_KIND) if set(data) <= one.id_of_byte.keys()]
    assert len(told) >= NUM_OF_A_KIND / 2
    num_broken = 0

    def check(data: bytes) -> None:
        nonlocal num_broken
        ids = [one.id_of_byte[byte] for byte in data]
        prompt = [*ids, *one.prompt_end]
        one.forced.answers[tuple(prompt)] = ids
        text = data.decode("utf-8", "replace")
        num_broken += BROKEN in text
        answers = one.answers(COMPLETIONS, lambda choice: str(choice["text"]), prompt=prompt)
        assert answers == (text, text)

    each(check, told)
    assert num_broken > len(told) / 2


def each(check: Callable[[Any], None], told: Sequence[Any]) -> None:
    """All of them, several at once."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, told))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_comes_back(tiny: Speaker, kind: str) -> None:
    check_chats(tiny, texts(kind, NUM_OF_A_KIND))


def test_bytes_that_are_no_text(tiny: Speaker) -> None:
    check_bytes(tiny)


@pytest.mark.model
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_comes_back_with_a_real_vocabulary(real: Speaker, kind: str) -> None:
    check_chats(real, texts(kind, NUM_OF_A_KIND))


@pytest.mark.model
def test_bytes_that_are_no_text_with_a_real_vocabulary(real: Speaker) -> None:
    check_bytes(real)
