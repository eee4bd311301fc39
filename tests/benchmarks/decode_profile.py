"""Where a decode step's time goes: python tests/benchmarks/decode_profile.py --model DIR

Steps of one stream on the stateful IR, without and with OpenVINO's own counters, in turns. Printed
per kind of operation: how many a step has, their milliseconds (median over steps) and share of a
step; then the weights that all matrix products read, how fast they read them, and how fast the
cores read memory when they do nothing else (`appliance/doctor/bandwidth.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import openvino as ov

from appliance.backends.create import compile_options
from appliance.backends.stateful.model import add_new_kv
from appliance.config import EngineConfig
from appliance.doctor.bandwidth import MemoryReader
from appliance.doctor.weight_bytes import weight_bytes_per_token
from appliance.model_dir import MODEL_XML, read_manifest

PROMPT_TOKENS = 41
MATRIX_PRODUCT = "FullyConnected"


class Stream:
    """One sequence on an infer request of its own."""

    def __init__(self, compiled: ov.CompiledModel, vocab_size: int) -> None:
        self._request = compiled.create_infer_request()
        self._random = np.random.default_rng(0)
        self._vocab_size = vocab_size
        self._length = 0

    def begin(self) -> None:
        """A new prompt."""
        self._request.reset_state()
        self._length = 0
        self.extend(PROMPT_TOKENS)

    def extend(self, num_tokens: int) -> float:
        """Compute that many made-up tokens; milliseconds."""
        end = self._length + num_tokens
        inputs = {
            "input_ids": self._random.integers(0, self._vocab_size, (1, num_tokens)),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(self._length, end)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
            "logits_indices": np.array([num_tokens - 1], dtype=np.int64),
        }
        self._length = end
        begun = time.perf_counter()
        self._request.infer(inputs, share_inputs=True)
        return (time.perf_counter() - begun) * 1000

    def counted_step(self) -> list[tuple[str, float]]:
        """Compute one token; kind and milliseconds of each operation."""
        self.extend(1)
        return [
            (each.node_type, each.real_time.total_seconds() * 1000)
            for each in self._request.get_profiling_info()
            if each.status == ov.ProfilingInfo.Status.EXECUTED
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    plain, counted = _streams(args.model)
    steps: list[float] = []
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    num_of_kind: Counter[str] = Counter()
    speeds: list[float] = []
    with MemoryReader() as memory:
        for number in range(args.rounds + 1):
            plain.begin()
            times = [plain.extend(1) for _ in range(args.steps)]
            counted.begin()
            passes = [counted.counted_step() for _ in range(args.steps)]
            if number == 0:
                continue  # the first round warms up
            steps += times
            speeds.append(memory.bytes_per_s())
            num_of_kind = Counter(kind for kind, _ in passes[-1])
            for counters in passes:
                for kind in num_of_kind:
                    by_kind[kind].append(sum(ms for name, ms in counters if name == kind))
    step_ms = statistics.median(steps)
    table = {kind: statistics.median(times) for kind, times in by_kind.items()}
    print(f"{'operation':<40}{'in a step':>10}{'ms':>8}{'share':>8}")
    for kind, kind_ms in sorted(table.items(), key=lambda item: -item[1]):
        if kind_ms >= step_ms / 200:
            print(f"{kind:<40}{num_of_kind[kind]:>10}{kind_ms:>8.2f}{kind_ms / step_ms:>8.0%}")
    print(f"{'all operations':<40}{num_of_kind.total():>10}{sum(table.values()):>8.2f}")
    print(f"{'a step without counters':<50}{step_ms:>8.2f}")
    weights = weight_bytes_per_token(args.model)
    products_ms = sum(ms for kind, ms in table.items() if kind.startswith(MATRIX_PRODUCT))
    speed = statistics.median(speeds)
    print(
        f"weights: {weights / 1e6:.0f} MB a step, read at {weights / products_ms / 1e6:.1f} GB/s;"
    )
    print(
        f"memory alone is read at {speed / 1e9:.1f} GB/s, {weights / speed * 1000:.2f} ms for them"
    )
    return 0


def _streams(model_dir: Path) -> tuple[Stream, Stream]:
    """The first without, the second with counters."""
    vocab_size = read_manifest(model_dir).architecture.vocab_size
    core = ov.Core()
    model = core.read_model(model_dir / MODEL_XML)
    add_new_kv(model)
    # A compile cache would hold what was compiled without counters.
    options = replace(compile_options(EngineConfig()), cache_dir=None).properties()
    compiled = [
        core.compile_model(model, "CPU", {**options, "PERF_COUNT": counts})
        for counts in (False, True)
    ]
    plain, counted = (Stream(each, vocab_size) for each in compiled)
    return plain, counted


if __name__ == "__main__":
    sys.exit(main())
