"""The same prompt again: time to first token, in decode steps of the same answer."""

from __future__ import annotations

from tests.benchmarks.bars.steps import STEP, in_steps, ttft_and_step
from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker

_LIMIT = Limit("<=", 1.4)
_ROUNDS = 12
_PROMPT_TOKENS = 256


def measure(lab: Lab) -> list[Row]:
    """One row."""

    def repeat(worker: Worker, number: int) -> tuple[float, float]:
        prompt = lab.prompts.fresh(_PROMPT_TOKENS)
        worker.generate(prompt, 8)
        return ttft_and_step(worker, prompt)

    figures = lab.take_turns(lab.variants, _ROUNDS, repeat)
    comparisons: dict[str, Comparison | None] = {
        name: in_steps(pairs) for name, pairs in figures.items()
    }
    return [lab.alone("repeated prompt of 256 tokens, TTFT", "ms", _LIMIT, STEP, comparisons)]
