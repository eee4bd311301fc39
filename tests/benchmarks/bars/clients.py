"""Eight clients, each with its next request as soon as it has its last answer: tokens per second,
prefill included, beside genai's continuous batching."""

from __future__ import annotations

from tests.benchmarks.harness.answer import tokens_per_s
from tests.benchmarks.harness.comparison import Limit, Row
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker, request
from tests.benchmarks.peers import genai

_ONE_VARIANT = Limit(">=", 1.05)
_STATEFUL = Limit(">=", 0.9)
_CLIENTS = 8
_REQUESTS = 24
_PROMPT_TOKENS = (32, 256)
_MAX_TOKENS = 128
_ROUNDS = 3
_BAR = "8 clients, 32-256 tokens in, 128 out"


def measure(lab: Lab) -> list[Row]:
    """Two rows: what one variant must reach, and what stateful must. In a round every side gets the
    same prompts."""
    prompts: dict[int, list[list[int]]] = {}

    def total(worker: Worker, number: int) -> float:
        if number not in prompts:
            count = _REQUESTS if number else _CLIENTS  # round 0 warms up
            prompts[number] = lab.prompts.many(count, *_PROMPT_TOKENS)
        max_tokens = _MAX_TOKENS if number else 8
        requests = [request(prompt, max_tokens) for prompt in prompts[number]]
        return tokens_per_s(worker.generate_many(requests, clients=_CLIENTS))

    figures = lab.take_turns([*lab.variants, genai.CONTINUOUS], _ROUNDS, total)
    row = lab.versus(_BAR, "tokens/s", _ONE_VARIANT, genai.CONTINUOUS, figures)
    stateful = {name: one for name, one in row.ours.items() if name == "stateful"}
    missing = {name: why for name, why in row.missing.items() if name == "stateful"}
    in_stateful = Row(f"{_BAR}: stateful", "tokens/s", _STATEFUL, row.peer, stateful, missing)
    return [row, in_stateful] if "stateful" in lab.variants else [row]
