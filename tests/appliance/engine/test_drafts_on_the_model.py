"""Prompt lookup on a real model, behind each variant of the KV seam.

In float32 without quantised activations, as the contract suite: a pass over several tokens then
chooses the same ids as passes over one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Backend, Chunk, ModelRunner
from appliance.backends.create import create_backend
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.config import EngineConfig
from appliance.engine.engine import Engine
from appliance.engine.sampling_params import SamplingParams
from appliance.model_dir import CHAT_TEMPLATE, read_manifest

pytestmark = pytest.mark.model

EXTRACTION = """\
INFO  scheduler started job nightly-backup with id 5512
ERROR storage cannot open /mnt/backup/volume3: Input/output error
WARN  storage is falling back to /mnt/backup/volume2
ERROR checksum mismatch for customers.db: expected 9f2c41aa, found 77b01e3d
INFO  retrying customers.db, attempt 2 of 3
ERROR giving up on customers.db after 3 attempts
Repeat all of these lines, word for word."""
OTHER = "Write a short story about a lighthouse keeper and a storm."


class CountingRunner:
    """Counts passes, and stays open when an engine is done with it."""

    def __init__(self, runner: ModelRunner) -> None:
        self.limits = runner.limits
        self.runner = runner
        self.chunk_lengths: list[list[int]] = []

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        self.chunk_lengths.append([len(chunk.token_ids) for chunk in chunks])
        return self.runner.forward(chunks)

    def idle(self) -> None:
        self.runner.idle()

    def close(self) -> None:
        """Another engine comes."""


class Model:
    """One variant on the real model, and what it needs to be asked something."""

    def __init__(
        self, kv_cache: Literal["stateful", "paged"], model_dir: Path, cache_dir: Path
    ) -> None:
        manifest = read_manifest(model_dir)
        config = EngineConfig(
            kv_cache=kv_cache,
            inference_precision="f32",
            dynamic_quantization_group_size=0,
            kv_cache_precision="f32",
            max_model_len=1024,
            compile_cache_dir=cache_dir,
        )
        loaded = create_backend(config, model_dir, manifest)
        self.runner = CountingRunner(loaded.runner)
        self.backend = Backend(loaded.kv, self.runner, loaded.description)
        self._tokenizer = Tokenizer(model_dir)
        template = (model_dir / CHAT_TEMPLATE).read_text(encoding="utf-8")
        self._template = ChatTemplate(template, self._tokenizer.special_tokens(manifest))
        self._stop = frozenset(manifest.eos_token_ids)

    def answers(
        self, *prompts: str, max_draft_tokens: int, num_tokens: int = 64
    ) -> tuple[list[list[int]], int]:
        """Greedy ids of all prompts, asked at once, and how many passes they took."""
        self.runner.chunk_lengths.clear()
        answers = asyncio.run(self._answers(prompts, max_draft_tokens, num_tokens))
        return answers, len(self.runner.chunk_lengths)

    async def _answers(
        self, prompts: Sequence[str], max_draft_tokens: int, num_tokens: int
    ) -> list[list[int]]:
        engine = Engine(
            self.backend, prefill_chunk=256, max_waiting=8, max_draft_tokens=max_draft_tokens
        )
        engine.start()
        params = SamplingParams(num_tokens, temperature=0, stop_token_ids=self._stop)
        generations = [engine.submit(self._ids(p), params, timeout_s=280) for p in prompts]
        answers: list[list[int]] = []
        for generation in generations:
            answers.append([])
            async for output in generation.outputs():
                answers[-1] += output.token_ids
        await engine.close()
        self.backend.kv.check_integrity()
        return answers

    def _ids(self, prompt: str) -> tuple[int, ...]:
        text = self._template.render([{"role": "user", "content": prompt}])
        return self._tokenizer.encode(text)


@pytest.fixture(scope="module", params=["stateful", "paged"])
def model(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    model = Model(request.param, model_dir, tmp_path_factory.mktemp("compile-cache"))
    yield model
    model.runner.runner.close()


def test_an_extraction_has_the_same_ids_in_far_fewer_passes(model: Model) -> None:
    without, num_passes_without = model.answers(EXTRACTION, max_draft_tokens=0)
    with_drafts, num_passes = model.answers(EXTRACTION, max_draft_tokens=7)
    assert with_drafts == without
    assert len(without[0]) > 30
    assert num_passes < 0.5 * num_passes_without


def test_beside_one_that_copies_nothing_both_have_their_ids(model: Model) -> None:
    """Rows with drafts of different lengths in one pass."""
    alone = [model.answers(p, max_draft_tokens=0)[0][0] for p in (EXTRACTION, OTHER)]
    together, _ = model.answers(EXTRACTION, OTHER, max_draft_tokens=7)
    assert together == alone
    decoding = [lengths for lengths in model.runner.chunk_lengths if max(lengths) <= 8]
    assert any(len(set(lengths)) > 1 for lengths in decoding)
