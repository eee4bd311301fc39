"""What choosing a token takes, without a model: python tests/benchmarks/sampling.py

Milliseconds per token (best of several rounds) for the sampler with some parameters, also where
some tokens only are allowed, any ones, and for log probabilities, on logits of a vocabulary of
Qwen's size: normally distributed, the best one far above the others, as a model's are. The heap is
bounded as in the service, which makes large temporaries expensive. Quiet machine needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from appliance.engine.sampler import Sampler
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.token_constraint import AllowedTokens
from appliance.engine.token_scores import score
from appliance.heap import bound_heap

SPREAD = 3.0
PROMPT_IDS = range(100)
NUM_TOP = 5
GREEDY = SamplingParams(1, temperature=0)
DEFAULTS = SamplingParams(1, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)
CASES = {
    "temperature 0.7": SamplingParams(1, temperature=0.7),
    "Qwen's defaults": DEFAULTS,
    "temperature 0.7, top_p 0.9": SamplingParams(1, temperature=0.7, top_p=0.9),
    "greedy, frequency_penalty 0.5": SamplingParams(1, temperature=0, frequency_penalty=0.5),
}
# And which share of the tokens is allowed.
CONSTRAINED_CASES = {
    "greedy, 98 % allowed": (GREEDY, 0.98),
    "Qwen's defaults, 98 % allowed": (DEFAULTS, 0.98),
    "Qwen's defaults, 50 % allowed": (DEFAULTS, 0.5),
    "Qwen's defaults, 0.1 % allowed": (DEFAULTS, 0.001),
}


def ms_per_call(call: Callable[[], object], rounds: int, calls: int) -> float:
    """The best round's; the first one warms up."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls * 1000)
    return min(times[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=151_936)
    parser.add_argument("--best", type=float, default=22.0, help="the best logit, above the mean")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100, help="of each round")
    args = parser.parse_args()
    bound_heap()
    logits = np.random.default_rng(0).normal(0, SPREAD, args.vocab_size).astype(np.float32)
    logits[args.vocab_size // 2] = args.best
    scratch = np.empty_like(logits)
    calls: dict[str, Callable[[], object]] = {}
    for name, params in CASES.items():
        sampler = Sampler(params, PROMPT_IDS, scratch)
        calls[name] = lambda sampler=sampler: sampler.sample(logits)
    for name, (params, share) in CONSTRAINED_CASES.items():
        sampler = Sampler(params, PROMPT_IDS, scratch)
        marks = np.random.default_rng(1).random(args.vocab_size) < share
        mask = np.packbits(marks, bitorder="little").tobytes()
        calls[name] = lambda sampler=sampler, mask=mask: sampler.sample(
            logits, AllowedTokens(mask, args.vocab_size)
        )
    calls[f"log probabilities, {NUM_TOP} top ones"] = lambda: score(logits[None], (0,), NUM_TOP)
    for name, call in calls.items():
        print(f"{name:<40}{ms_per_call(call, args.rounds, args.calls):>8.3f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
