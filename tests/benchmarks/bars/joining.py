"""Running streams while others join: the 99th percentile of their gaps, in medians of their gaps
before anybody joined."""

from __future__ import annotations

import statistics

from appliance.bench.distribution import percentile
from tests.benchmarks.bars.steps import in_steps
from tests.benchmarks.harness.answer import Answer
from tests.benchmarks.harness.comparison import Limit, Row
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Request, Worker, request
from tests.benchmarks.peers import genai

_LIMIT = Limit("<=", 4.0)
_RUNNING = 4
_RUNNING_TOKENS = 160
_FIRST_JOIN_MS = 1000.0
_JOIN_EVERY_MS = 400.0
_JOINS = 8
_JOINER_TOKENS = (32, 256)
_JOINER_ANSWER = 16
_ROUNDS = 3


def measure(lab: Lab) -> list[Row]:
    """One row per side that is measured; genai's is for comparison and has no limit of its own."""

    def tail_and_median(worker: Worker, number: int) -> tuple[float, float]:
        running = [request(lab.prompts.fresh(32), _RUNNING_TOKENS) for _ in range(_RUNNING)]
        answers = worker.generate_many(running + _joiners(lab), clients=_RUNNING + _JOINS)
        return tail_and_median_of(answers[:_RUNNING], answers[_RUNNING:])

    names = [*lab.variants, genai.CONTINUOUS]
    figures = lab.take_turns(names, _ROUNDS, tail_and_median)
    comparisons = {name: in_steps(pairs) for name, pairs in figures.items()}
    theirs = comparisons.pop(genai.CONTINUOUS, None)
    bar = "p99 ITL of 4 streams while 8 prompts join"
    row = lab.alone(bar, "ms", _LIMIT, "median ITL before", comparisons)
    note = "" if theirs is None else f"genai: {theirs.ratio:.2f}"
    return [Row(row.bar, row.unit, row.limit, row.peer, row.ours, row.missing, note)]


def _joiners(lab: Lab) -> list[Request]:
    return [
        request(prompt, _JOINER_ANSWER, at_ms=_FIRST_JOIN_MS + _JOIN_EVERY_MS * number)
        for number, prompt in enumerate(lab.prompts.many(_JOINS, *_JOINER_TOKENS))
    ]


def tail_and_median_of(running: list[Answer], joiners: list[Answer]) -> tuple[float, float]:
    """p99 of the gaps of `running` that end while others join (from the first submission to the
    last one's first token), and the median of those that end before.

    Where all streams ran only while others joined, or none did, all gaps count for what is missing.
    """
    first = min(joiner.start_ms for joiner in joiners)
    last = max(joiner.times_ms[0] for joiner in joiners)
    ends_and_gaps = [
        (at, gap)
        for answer in running
        for at, gap in zip(answer.times_ms[1:], answer.gaps_ms, strict=True)
    ]
    every = [gap for _, gap in ends_and_gaps]
    joined = [gap for at, gap in ends_and_gaps if first <= at <= last] or every
    before = [gap for at, gap in ends_and_gaps if at < first] or every
    return percentile(sorted(joined), 99), statistics.median(before)
