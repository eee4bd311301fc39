"""Times to first token, measured in decode steps of the very same answer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tests.benchmarks.harness.comparison import Comparison
from tests.benchmarks.harness.worker import Worker

STEP = "decode step"
_MAX_TOKENS = 17


def ttft_and_step(worker: Worker, prompt_ids: Sequence[int]) -> tuple[float, float]:
    """Milliseconds to the first token of an answer, and the median of its steps behind it."""
    answer = worker.generate(prompt_ids, _MAX_TOKENS)
    return answer.ttft_ms, statistics.median(answer.gaps_ms)


def in_steps(pairs: Sequence[tuple[float, float]]) -> Comparison | None:
    """The rounds' times to first token over their steps; None without a round."""
    if not pairs:
        return None
    return Comparison(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
