"""A prompt of 41 tokens that nobody has seen: time to first token, beside genai."""

from __future__ import annotations

from tests.benchmarks.harness.comparison import Limit, Row
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.peers import genai

_LIMIT = Limit("<=", 1.0)
_PROMPT_TOKENS = 41
_ROUNDS = 20


def measure(lab: Lab) -> list[Row]:
    """A row per pipeline of genai."""

    def ttft_ms(worker: Worker, number: int) -> float:
        return worker.generate(lab.prompts.fresh(_PROMPT_TOKENS), 4).ttft_ms

    peers = (genai.CONTINUOUS, genai.STATEFUL)
    figures = lab.take_turns([*lab.variants, *peers], _ROUNDS, ttft_ms)
    return [
        lab.versus("new prompt of 41 tokens, TTFT", "ms", _LIMIT, peer, figures) for peer in peers
    ]
