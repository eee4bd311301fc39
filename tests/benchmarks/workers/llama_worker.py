"""llama.cpp through llama-cpp-python: llama_worker.py --model FILE.gguf --context TOKENS

One stream; it goes on from the longest beginning that prompt and last conversation share.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from worker_protocol import Channel, Clock, Verb, answer, memory, one_by_one, run


class LlamaCpp:
    """The binding's own generator of token ids, greedy."""

    def __init__(self, path: str, context: int) -> None:
        import llama_cpp

        num_threads = len(os.sched_getaffinity(0))
        self._llama = llama_cpp.Llama(
            path,
            n_ctx=context,
            n_threads=num_threads,
            n_threads_batch=num_threads,
            verbose=False,
        )
        self._eos_token_id = self._llama.token_eos()

    def generate(self, prompt_ids: list[int], max_tokens: int, ignore_eos: bool) -> dict[str, Any]:
        """One request, alone."""
        token_ids: list[int] = []
        times_ms: list[float] = []
        clock = Clock()
        for token_id in self._llama.generate(prompt_ids, temp=0.0, repeat_penalty=1.0):
            if token_id == self._eos_token_id and not ignore_eos:
                break
            token_ids.append(token_id)
            times_ms.append(clock.ms())
            if len(token_ids) == max_tokens:
                break
        return answer(0.0, times_ms, token_ids)


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    args = parser.parse_args()
    side = LlamaCpp(args.model, args.context)
    import llama_cpp

    verbs: dict[str, Verb] = {
        "generate": side.generate,
        "generate_many": one_by_one(side.generate),
        "memory": memory,
    }
    channel.serve(verbs, version=f"llama-cpp-python {llama_cpp.__version__}", max_rows=1)


if __name__ == "__main__":
    run(main)
