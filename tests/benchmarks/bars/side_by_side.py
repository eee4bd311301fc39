"""Everybody on the same machine in the same minutes: the table beside the bars."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.harness.answer import tokens_per_s_together
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker, request
from tests.benchmarks.peers import ours

_ROUNDS = 3
_SHORT, _LONG = 41, 512
_MAX_TOKENS = 24
_ROWS = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """One side's medians over the rounds; `tokens_per_s_of_8` None where it computes one stream."""

    name: str
    runs: str
    version: str
    ttft_new_41_ms: float
    ttft_repeated_ms: float
    ttft_new_512_ms: float
    per_token_ms: float
    tokens_per_s_of_8: float | None
    anonymous_mb: float


@dataclass(frozen=True, slots=True)
class _Round:
    new_ms: float
    repeated_ms: float
    long_ms: float
    per_token_ms: float
    together: float | None
    anonymous_mb: float


def measure_standings(lab: Lab, peers: Sequence[str]) -> list[Standing]:
    """One per side that runs, ours first. Those behind HTTP have our service to stand beside."""
    names = [*lab.variants, *map(ours.served, lab.variants), *peers]
    rounds = lab.take_turns(names, _ROUNDS, lambda worker, number: _round(lab, worker))
    return [_standing(lab, name, of_side) for name, of_side in rounds.items() if of_side]


def _round(lab: Lab, worker: Worker) -> _Round:
    prompt = lab.prompts.fresh(_SHORT)
    new = worker.generate(prompt, _MAX_TOKENS)
    repeated = worker.generate(prompt, 2)
    long = worker.generate(lab.prompts.fresh(_LONG), 2)
    together = None
    if worker.max_rows >= _ROWS:
        requests = [request(lab.prompts.fresh(32), _MAX_TOKENS) for _ in range(_ROWS)]
        together = tokens_per_s_together(worker.generate_many(requests, clients=_ROWS))
    return _Round(
        new_ms=new.ttft_ms,
        repeated_ms=repeated.ttft_ms,
        long_ms=long.ttft_ms,
        per_token_ms=new.per_token_ms,
        together=together,
        anonymous_mb=worker.anonymous_bytes() / 1e6,
    )


def _standing(lab: Lab, name: str, rounds: Sequence[_Round]) -> Standing:
    together = [one.together for one in rounds if one.together is not None]
    return Standing(
        name=name,
        runs=lab.fleet.sides[name].runs,
        version=lab.fleet.versions[name],
        ttft_new_41_ms=statistics.median(one.new_ms for one in rounds),
        ttft_repeated_ms=statistics.median(one.repeated_ms for one in rounds),
        ttft_new_512_ms=statistics.median(one.long_ms for one in rounds),
        per_token_ms=statistics.median(one.per_token_ms for one in rounds),
        tokens_per_s_of_8=statistics.median(together) if together else None,
        anonymous_mb=rounds[-1].anonymous_mb,
    )
