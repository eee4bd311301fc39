"""How far the service's own settings drift when the same tokens are computed in other chunks.

Activations are quantised to 8 bits on the way (and in bfloat16 where the CPU has it), with kernels
that differ by the number of tokens in a pass. So a cached prompt and a new one do not give equal
logits, as they do in `test_contract.py`; here it is kept small. Wrong KV is off by whole nats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Backend, Chunk
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
    backend: Backend,
    token_ids: tuple[int, ...],
    *,
    prefill_chunk: int = 10_000,
    keep_prefix: bool = False,
) -> tuple[NDArray[np.float32], int]:
    """Logits behind the last of `token_ids`, and how many of these were known before."""
    allocation = backend.kv.allocate(token_ids)
    assert allocation is not None
    slot, start = allocation.slot, allocation.num_cached_tokens
    for at in range(start, len(token_ids), prefill_chunk):
        chunk = Chunk(slot, token_ids[at : at + prefill_chunk], at, 1)
        assert backend.kv.reserve(slot, len(chunk.token_ids))
        logits = backend.runner.forward([chunk])[-1].copy()
        backend.kv.commit(slot, chunk.token_ids)
    backend.kv.free(slot, keep_prefix=keep_prefix)
    return logits, start


@pytest.mark.model
@pytest.mark.parametrize("kv_cache", ["stateful", "paged"])
def test_a_known_prompt_and_one_in_chunks_give_nearly_the_same_probabilities(
    model_dir: Path, tmp_path: Path, kv_cache: Literal["stateful", "paged"]
) -> None:
    config = EngineConfig(kv_cache=kv_cache, compile_cache_dir=tmp_path)
    backend = create_backend(config, model_dir, read_manifest(model_dir))
    encode = Tokenizer(model_dir).encode
    drifts = []
    for number, text in enumerate(TEXTS):
        # Each begins with another token, so that none finds a part of itself known.
        token_ids = encode(f"{number} {text}")
        chunked, known = last_logits(backend, token_ids, prefill_chunk=7)
        assert known == 0
        whole, known = last_logits(backend, token_ids, keep_prefix=True)
        assert known == 0
        # Once in the row it was left in, once filled in from the host's copy.
        resident, known = last_logits(backend, token_ids, keep_prefix=True)
        assert known == len(token_ids) - 1
        for i in range(3):
            last_logits(backend, encode(f"Something else altogether, and longer: {i}. {text}"))
        filled, known = last_logits(backend, token_ids)
        assert known == len(token_ids) - 1
        drifts += [divergence(whole, other) for other in (chunked, resident, filled)]
        backend.kv.check_integrity()
    backend.runner.close()
    assert np.mean(drifts) <= MAX_MEAN_KL
    assert np.max(drifts) <= MAX_KL
    assert np.min(drifts) >= -1e-9
