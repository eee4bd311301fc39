"""Start-up time and memory of the service: python tests/benchmarks/footprint.py --model DIR

Starts `serve` several times; the first start fills an empty compile cache and is named cold. Each
prints its own ready line: seconds from exec to the first real token, and their parts. The last one
then answers chats of changing length; printed is its anonymous memory before and after.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.served_process import ServedProcess

_MAX_WARM_START_S = 3.0
_MAX_ANONYMOUS_MB = 750


def chat(served: ServedProcess, number: int) -> None:
    """One chat; its prompt has 5 to 84 words of some tokens each, its answer up to 48 tokens."""
    words = " ".join(f"w{number}-{i}" for i in range(5 + number % 80))
    body = served.body(f"Say something about {words}", max_tokens=16 + number % 33)
    served.client.post("/v1/chat/completions", json=body).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--requests", type=int, default=100)
    args = parser.parse_args()
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for number in range(args.starts):
            with ServedProcess(args.model, cache_dir=Path(cache)) as served:
                seconds.append(float(served.ready["since_exec_s"]))
                print("warm:" if number else "cold:", served.ready[0])
                if number + 1 < args.starts:
                    continue
                before = served.anonymous_bytes() / 1e6
                for request in range(args.requests):
                    chat(served, request)
                after = served.anonymous_bytes() / 1e6
                has_torch = "libtorch" in Path(f"/proc/{served.process.pid}/maps").read_text()
    warm = statistics.median(seconds[1:])
    print(f"warm start, exec to first token: median {warm:.2f} s; at most {_MAX_WARM_START_S:g}")
    print(
        f"anonymous memory: {before:.0f} MB when ready, {after:.0f} MB after {args.requests} "
        f"requests; at most {_MAX_ANONYMOUS_MB}"
    )
    print(f"torch loaded: {'yes' if has_torch else 'no'}")
    passed = warm <= _MAX_WARM_START_S and after <= _MAX_ANONYMOUS_MB and not has_torch
    print("pass" if passed else "short of it")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
