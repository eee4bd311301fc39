"""Which OpenVINO properties are fastest here: python tests/benchmarks/properties.py --model DIR

Every candidate is compiled, then all take turns, round by round, so that a busy moment hits all of
them alike. Printed per candidate: median decode step, prefill of 41 and 512 tokens (ms), and the
median over rounds of its decode step divided by the service's default of the same round.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.backends.base import Chunk, Slot
from appliance.backends.create import compile_options
from appliance.backends.loader import CompileOptions, compile_model
from appliance.backends.stateful.runner import StatefulRunner
from appliance.config import EngineConfig
from appliance.model_dir import read_manifest

_SLOT = Slot(0)


def candidates() -> dict[str, CompileOptions]:
    """The default first, then each property changed by itself."""
    default = dataclasses.replace(compile_options(EngineConfig()), cache_dir=None)
    changes: dict[str, dict[str, object]] = {"default": {}}
    for size in (0, 32, 64, 128, 256, 896):
        changes[f"group {size}"] = {"dynamic_quantization_group_size": size}
    for precision in ("f32", "bf16"):
        changes[f"inference {precision}"] = {"inference_precision": precision}
    for precision in ("u8", "f16", "f32"):
        changes[f"kv {precision}"] = {"kv_cache_precision": precision}
    changes["1 thread"] = {"num_threads": 1}
    named = {name: dataclasses.replace(default, **change) for name, change in changes.items()}
    return {n: o for n, o in named.items() if n == "default" or o != default}


def measure(runner: StatefulRunner, *, num_steps: int) -> tuple[float, float, float]:
    """Median decode step behind 41 tokens, prefill of 41, prefill of 512; in milliseconds."""
    prefill_512 = _timed(runner, tuple(range(1000, 1512)), 0)
    prefill_41 = _timed(runner, tuple(range(2000, 2041)), 0)
    steps = [_timed(runner, (3000 + i,), 41 + i) for i in range(num_steps)]
    return statistics.median(steps), prefill_41, prefill_512


def _timed(runner: StatefulRunner, token_ids: tuple[int, ...], start: int) -> float:
    begun = time.perf_counter()
    runner.forward([Chunk(_SLOT, token_ids, start, 1)])
    return (time.perf_counter() - begun) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--only", nargs="*", default=[], help="names of candidates")
    args = parser.parse_args()
    vocab_size = read_manifest(args.model).architecture.vocab_size
    chosen = {
        n: o for n, o in candidates().items() if not args.only or n in ("default", *args.only)
    }
    runners = {}
    for name, options in chosen.items():
        compiled = compile_model(args.model, options)
        runners[name] = StatefulRunner(compiled, max_model_len=2048, vocab_size=vocab_size)
        measure(runners[name], num_steps=2)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runners}
    order = list(runners)
    for _ in range(args.rounds):
        for name in order:
            figures[name].append(measure(runners[name], num_steps=args.steps))
        # Each candidate follows another one in turn: what ran before leaves traces in the caches.
        random.shuffle(order)
    print(f"{'candidate':<16}{'decode':>9}{'x default':>11}{'41':>9}{'512':>9}")
    for name, rounds in figures.items():
        decode, short, long = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(
            mine[0] / base[0] for mine, base in zip(rounds, figures["default"], strict=True)
        )
        print(f"{name:<16}{decode:>9.2f}{ratio:>11.3f}{short:>9.1f}{long:>9.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
