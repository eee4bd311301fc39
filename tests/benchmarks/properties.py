"""Which OpenVINO properties are fastest here: python tests/benchmarks/properties.py --model DIR

What `qwen-appliance tune engine` does in its budget, at length: more candidates, hopeless ones too,
all loaded at once (0.5 GB each) and taking turns in a new order every round. Printed per candidate:
decode step, prefill of 128 and 512 tokens (ms, medians), and the median over rounds of its turn
divided by the default's of the same round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.backends.create import create_backend
from appliance.config import EngineConfig
from appliance.model_dir import read_manifest
from appliance.tune.candidates import Candidate
from appliance.tune.contestant import BackendContestant
from appliance.tune.judge import TurnTimes, judge, median_times

DEFAULT = Candidate("default", {})
LONG_PROMPT = 512


def candidates() -> list[Candidate]:
    """The default first, then each property changed by itself."""
    groups = [
        Candidate(f"group {size}", {"dynamic_quantization_group_size": size})
        for size in (0, 32, 64, 256, 896)
    ]
    inference = [
        Candidate(f"inference {precision}", {"inference_precision": precision})
        for precision in ("f32", "bf16")
    ]
    kv = [
        Candidate(f"kv {precision}", {"kv_cache_precision": precision})
        for precision in ("u8", "f16", "f32")
    ]
    return [DEFAULT, *groups, *inference, *kv, Candidate("1 thread", {"num_threads": 1})]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kv-cache", choices=("stateful", "paged"), default="stateful")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--only", nargs="*", default=[], help="names of candidates")
    args = parser.parse_args()
    manifest = read_manifest(args.model)
    chosen = [c for c in candidates() if not args.only or c.name in ("default", *args.only)]
    with tempfile.TemporaryDirectory() as compile_cache:
        base = EngineConfig(kv_cache=args.kv_cache, compile_cache_dir=Path(compile_cache))
        contestants = {
            one.name: BackendContestant(create_backend(one.config(base), args.model, manifest))
            for one in chosen
        }
    turns: dict[str, list[TurnTimes]] = {name: [] for name in contestants}
    long_prompts: dict[str, list[float]] = {name: [] for name in contestants}
    for one in contestants.values():
        one.time_turn(2)
    order = list(contestants)
    for _ in range(args.rounds):
        for name in order:
            turns[name].append(contestants[name].time_turn(args.steps))
            long_prompts[name].append(contestants[name].time_prefill(LONG_PROMPT, LONG_PROMPT))
        # Each candidate follows another one in turn: what ran before leaves traces in the caches.
        random.shuffle(order)
    print(f"{'candidate':<16}{'decode':>9}{'128':>9}{'512':>9}{'x default':>11}")
    for name, rounds in turns.items():
        times = median_times(rounds)
        ratio = judge(list(zip(rounds, turns["default"], strict=True))).ratio
        long_prompt = statistics.median(long_prompts[name])
        print(
            f"{name:<16}{times.decode:>9.2f}{times.prefill:>9.1f}{long_prompt:>9.0f}{ratio:>11.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
