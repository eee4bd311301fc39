"""A worker that computes nothing and takes the times it was told: for tests of the bench.

    scripted_worker.py [--step-ms N] [--rows N] [--fail-at CALL] [--begin fatal|garbage|silence|end]

Its answers begin after four steps and have a token per step; their ids count on from the prompt's
last one. `pid` tells which process it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workers"))

from worker_protocol import Channel, answer, memory, one_by_one, run


class Scripted:
    """Fails from its call number `fail_at` on, counted from 1."""

    def __init__(self, step_ms: float, fail_at: int | None) -> None:
        self._step_ms, self._fail_at = step_ms, fail_at
        self._num_calls = 0

    def generate(self, prompt_ids: list[int], max_tokens: int, ignore_eos: bool) -> dict[str, Any]:
        self._num_calls += 1
        if self._fail_at is not None and self._num_calls >= self._fail_at:
            raise ValueError("told to\nfail")
        times_ms = [(4 + n) * self._step_ms for n in range(max_tokens)]
        return answer(0.0, times_ms, [prompt_ids[-1] + 1 + n for n in range(max_tokens)])


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--fail-at", type=int, default=None)
    parser.add_argument("--begin", choices=("fatal", "garbage", "silence", "end"))
    args = parser.parse_args()
    print("a library that talks while it is imported")
    if args.begin == "fatal":
        raise RuntimeError("no such model:\n  DIR")
    if args.begin == "garbage":
        os.write(channel._out.fileno(), b"hello\n")
    if args.begin == "silence":
        time.sleep(60)
    if args.begin == "end":
        sys.stderr.write("Segmentation fault\n")
        os._exit(9)
    scripted = Scripted(args.step_ms, args.fail_at)
    verbs = {
        "generate": scripted.generate,
        "generate_many": one_by_one(scripted.generate),
        "memory": memory,
        "pid": os.getpid,
    }
    channel.serve(verbs, version="scripted 1.0", max_rows=args.rows)


if __name__ == "__main__":
    run(main)
