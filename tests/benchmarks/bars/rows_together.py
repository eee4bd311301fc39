"""Eight rows that decode together, nobody arriving or leaving: tokens per second, in streams."""

from __future__ import annotations

from tests.benchmarks.harness.answer import tokens_per_s_together
from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker, request

_LIMIT = Limit(">=", 5.5)
_ROWS = 8
_PROMPT_TOKENS = 32
_MAX_TOKENS = 96
_ROUNDS = 5


def measure(lab: Lab) -> list[Row]:
    """One row. One stream and eight are measured in turn, by the same process."""

    def eight_and_one(worker: Worker, number: int) -> tuple[float, float]:
        one = worker.generate(lab.prompts.fresh(_PROMPT_TOKENS), _MAX_TOKENS)
        requests = [request(lab.prompts.fresh(_PROMPT_TOKENS), _MAX_TOKENS) for _ in range(_ROWS)]
        eight = worker.generate_many(requests, clients=_ROWS)
        return tokens_per_s_together(eight), 1000 / one.per_token_ms

    figures = lab.take_turns(lab.variants, _ROUNDS, eight_and_one)
    comparisons = {
        name: Comparison(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)) if pairs else None
        for name, pairs in figures.items()
    }
    bar = "8 rows decoding together"
    return [lab.alone(bar, "tokens/s", _LIMIT, "one stream", comparisons)]
