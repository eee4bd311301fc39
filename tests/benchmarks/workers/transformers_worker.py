"""Transformers in bfloat16: transformers_worker.py --model CHECKPOINT

One stream, no prefix cache: what `generate` does out of the box.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from worker_protocol import Channel, Clock, Verb, answer, memory, one_by_one, run


class Transformers:
    """`generate` with a streamer that takes the times."""

    def __init__(self, checkpoint: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()

    def generate(self, prompt_ids: list[int], max_tokens: int, ignore_eos: bool) -> dict[str, Any]:
        """One request, alone."""
        import torch

        token_ids: list[int] = []
        times_ms: list[float] = []

        class Streamer:
            """Gets the prompt first, then every token by itself."""

            has_prompt = False

            def put(self, value: Any) -> None:
                if self.has_prompt:
                    times_ms.append(clock.ms())
                    token_ids.extend(value.flatten().tolist())
                self.has_prompt = True

            def end(self) -> None:
                pass

        ids = torch.tensor([prompt_ids])
        clock = Clock()
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_tokens,
                min_new_tokens=max_tokens if ignore_eos else None,
                streamer=Streamer(),
            )
        return answer(0.0, times_ms, token_ids)


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    side = Transformers(args.model)
    import torch
    import transformers

    verbs: dict[str, Verb] = {
        "generate": side.generate,
        "generate_many": one_by_one(side.generate),
        "memory": memory,
    }
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    channel.serve(verbs, version=version, max_rows=1)


if __name__ == "__main__":
    run(main)
