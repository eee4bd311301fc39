"""How far the service's own settings drift when the same tokens are computed in other chunks.

Activations are quantised to 8 bits on the way (and in bfloat16 where the CPU has it), with kernels
that differ by the number of tokens in a pass. So a cached prompt and a new one do not give equal
logits, as they do in `test_contract.py`; here it is kept small. Wrong KV is off by whole nats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Backend, Chunk, Slot
from appliance.backends.create import create_backend
from appliance.chat.tokenizer import Tokenizer
from appliance.config import EngineConfig
from appliance.model_dir import read_manifest

# Measured per prompt: 0.0005 to 0.05 nats.
MAX_MEAN_KL = 0.05
MAX_KL = 0.15

TEXTS = [
    "1, 2, 3, 4, 5, 6, 7, 8, 9,",
    "一二三四五六七八九十 一二三四五六七八九十 一二三",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "<|im_start|>user\nCount from 1 to 30.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\n你好，请介绍一下你自己。<|im_end|>\n<|im_start|>assistant\n",
    "The appliance answers questions about the weather, about sums and about small programs. It",
]


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def divergence(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """KL(one || other) in nats."""
    p, q = log_probabilities(one), log_probabilities(other)
    return float((np.exp(p) * (p - q)).sum())


def last_logits(
    backend: Backend, token_ids: tuple[int, ...], *, start: int = 0, prefill_chunk: int = 10_000
) -> NDArray[np.float32]:
    """Logits behind the last of `token_ids`, those before `start` being in the row already."""
    for at in range(start, len(token_ids), prefill_chunk):
        chunk = Chunk(Slot(0), token_ids[at : at + prefill_chunk], at, 1)
        logits = backend.runner.forward([chunk])
    return logits[-1].copy()


@pytest.mark.model
def test_a_cached_prompt_and_one_in_chunks_give_nearly_the_same_probabilities(
    model_dir: Path, tmp_path: Path
) -> None:
    config = EngineConfig(compile_cache_dir=tmp_path)
    backend = create_backend(config, model_dir, read_manifest(model_dir))
    encode = Tokenizer(model_dir).encode
    drifts = []
    for text in TEXTS:
        token_ids = encode(text)
        whole = last_logits(backend, token_ids)
        cached = last_logits(backend, token_ids, start=len(token_ids) - 1)
        last_logits(backend, encode("Something else altogether, and longer: " + text * 3), start=0)
        chunked = last_logits(backend, token_ids, prefill_chunk=7)
        drifts += [divergence(whole, cached), divergence(whole, chunked)]
    backend.runner.close()
    assert np.mean(drifts) <= MAX_MEAN_KL
    assert np.max(drifts) <= MAX_KL
    assert np.min(drifts) >= -1e-9
