"""One stream, no drafts: milliseconds per token, beside the peers and beside what memory allows."""

from __future__ import annotations

from appliance.doctor.bandwidth import MemoryReader
from appliance.doctor.weight_bytes import weight_bytes_per_token
from tests.benchmarks.harness.comparison import Limit, Row
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.peers import genai, llama_cpp

_PROMPT_TOKENS = 41
_MAX_TOKENS = 64
_ROUNDS = 10
_FLOOR = "weights / bandwidth"
_LIMITS = {
    genai.CONTINUOUS: Limit("<=", 1.0),
    genai.STATEFUL: Limit("<=", 1.0),
    llama_cpp.NAME: Limit("<=", 0.72),
    _FLOOR: Limit("<=", 1.5),
}


def measure(lab: Lab) -> list[Row]:
    """A row per peer. The floor is measured in every round too: memory may be faster at one time
    than at another."""
    weight_bytes = weight_bytes_per_token(lab.model_dir)
    floor_ms: dict[int, float] = {}
    with MemoryReader() as memory:

        def per_token_ms(worker: Worker, number: int) -> float:
            if number not in floor_ms:
                floor_ms[number] = weight_bytes / memory.bytes_per_s() * 1000
            return worker.generate(lab.prompts.fresh(_PROMPT_TOKENS), _MAX_TOKENS).per_token_ms

        peers = [name for name in _LIMITS if name != _FLOOR]
        figures = lab.take_turns([*lab.variants, *peers], _ROUNDS, per_token_ms)
    figures[_FLOOR] = [floor_ms[number] for number in sorted(floor_ms) if number]
    return [
        lab.versus("decode, one stream", "ms/token", limit, peer, figures)
        for peer, limit in _LIMITS.items()
    ]
