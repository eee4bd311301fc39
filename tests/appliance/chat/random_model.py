"""A completer on a model that says anything: what its answers have in common was enforced."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Backend
from appliance.chat.completer import Completer
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.config import GenerationConfig
from appliance.engine.engine import Engine
from appliance.model_dir import read_manifest
from tests.fakes import FakeKVCache, FakeRunner

MAX_MODEL_LEN = 600


class RandomRunner(FakeRunner):
    """Any token may come next; those of `likely` a little rather than others."""

    def __init__(self, vocab_size: int, likely: Sequence[int]) -> None:
        super().__init__(vocab_size=vocab_size, max_model_len=MAX_MODEL_LEN, max_slots=8)
        self._random = np.random.default_rng(1)
        self._likely = list(likely)

    def logits_behind(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        logits = self._random.standard_normal(self.limits.vocab_size, dtype=np.float32)
        logits[self._likely] += 6
        return logits


@contextlib.asynccontextmanager
async def completer_on_a_random_model(model_dir: Path) -> AsyncIterator[Completer]:
    """With the vocabulary of a model directory, and drafts. It likes to end what it has begun."""
    manifest, tokenizer = read_manifest(model_dir), Tokenizer(model_dir)
    closing = [token_id for text in '"}],0' for token_id in tokenizer.encode(text)]
    runner = RandomRunner(manifest.architecture.vocab_size, [*closing, *manifest.eos_token_ids])
    backend = Backend(FakeKVCache(8, MAX_MODEL_LEN), runner, "random")
    engine = Engine(backend, prefill_chunk=64, max_waiting=200, max_draft_tokens=7)
    engine.start()
    try:
        yield Completer(
            engine,
            tokenizer,
            ChatTemplate("", {}),
            eos_token_ids=manifest.eos_token_ids,
            generation=GenerationConfig(),
            model_defaults={},
            timeout_s=120,
        )
    finally:
        await engine.close()


def exact(text: str) -> Any:
    """JSON with numbers as they are written: as a float, 0.00...01 may be 0, which a bound
    excludes."""
    return json.loads(text, parse_float=Decimal)
