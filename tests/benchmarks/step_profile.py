"""What Python adds to a decode step: python tests/benchmarks/step_profile.py --model DIR

The engine as `serve` composes it, in process, answers prompts; per variant and number of rows the
medians of a step's parts are printed, in milliseconds: OpenVINO's pass with the setting of its
inputs, the rest of the runner (inputs made, keys and values kept), and what is between two of
those: choosing, counting, scheduling, and waking the event loop, which reads the tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "workers"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import openvino as ov
from engine_worker import EngineSide

from appliance.model_dir import read_manifest

PROMPT_TOKENS = 41
MAX_TOKENS = 128
# Of each row's steps the first quarter is left out: others may still be in their prompts.
SETTLED_AFTER = 0.25


class Parts:
    """Seconds of all passes since `clear`, taken around OpenVINO's and around the runner's."""

    def __init__(self, runner: Any) -> None:
        self.passes: list[float] = []
        self.forwards: list[float] = []
        self.gaps: list[float] = []
        self._ended_at: float | None = None
        runner.forward = self._timed_forward(runner.forward)
        ov.InferRequest.infer = self._timed_infer(ov.InferRequest.infer)

    def clear(self) -> None:
        """Forget what was timed."""
        for times in (self.passes, self.forwards, self.gaps):
            times.clear()
        self._ended_at = None

    def medians_ms(self) -> tuple[float, float, float]:
        """OpenVINO's pass, the rest of the runner, the gap to the next one."""
        passes, forwards, gaps = (
            statistics.median(times[int(len(times) * SETTLED_AFTER) :]) * 1000
            for times in (self.passes, self.forwards, self.gaps)
        )
        return passes, forwards - passes, gaps

    def _timed_forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begun = time.perf_counter()
            if self._ended_at is not None:
                self.gaps.append(begun - self._ended_at)
            logits = forward(*args)
            self._ended_at = time.perf_counter()
            self.forwards.append(self._ended_at - begun)
            return logits

        return timed

    def _timed_infer(self, infer: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            outputs = infer(*args, **options)
            self.passes.append(time.perf_counter() - begun)
            return outputs

        return timed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    vocab_size = read_manifest(args.model).architecture.vocab_size
    print(f"{'variant':<10}{'rows':>5}{'pass':>8}{'rest of runner':>16}{'between':>9}  ms")
    for variant in ("stateful", "paged"):
        settings = {"engine.kv_cache": variant, "engine.prompt_lookup": "false"}
        side = EngineSide(args.model, settings, margins=False)
        infer = ov.InferRequest.infer
        parts = Parts(side._engine._backend.runner)
        for rows in args.rows:
            rounds = []
            for number in range(args.rounds + 1):
                parts.clear()
                prompts = random.integers(0, vocab_size, (rows, PROMPT_TOKENS)).tolist()
                requests = [
                    {"prompt_ids": ids, "max_tokens": MAX_TOKENS, "ignore_eos": True}
                    for ids in prompts
                ]
                side.generate_many(requests, clients=rows)
                if number:  # the first round warms up
                    rounds.append(parts.medians_ms())
            one_pass, rest, gap = (statistics.median(part) for part in zip(*rounds, strict=True))
            print(f"{variant:<10}{rows:>5}{one_pass:>8.2f}{rest:>16.2f}{gap:>9.2f}")
        ov.InferRequest.infer = infer
        side.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
