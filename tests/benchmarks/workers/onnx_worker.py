"""ONNX Runtime through onnxruntime-genai: onnx_worker.py --model DIR

One stream, no prefix cache. `DIR` is what its own model builder wrote.
"""

from __future__ import annotations

import argparse
from typing import Any

from worker_protocol import Channel, Clock, Verb, answer, memory, one_by_one, run


class OnnxRuntime:
    """A generator per request, greedy."""

    def __init__(self, model_dir: str) -> None:
        import onnxruntime_genai as genai

        self._model = genai.Model(model_dir)

    def generate(self, prompt_ids: list[int], max_tokens: int, ignore_eos: bool) -> dict[str, Any]:
        """One request, alone."""
        import onnxruntime_genai as genai

        token_ids: list[int] = []
        times_ms: list[float] = []
        length = len(prompt_ids) + max_tokens
        clock = Clock()
        params = genai.GeneratorParams(self._model)
        # Below its least length an answer cannot end.
        least = length if ignore_eos else 0
        params.set_search_options(max_length=length, min_length=least, do_sample=False)
        generator = genai.Generator(self._model, params)
        generator.append_tokens(prompt_ids)
        while not generator.is_done():
            generator.generate_next_token()
            token_ids.append(int(generator.get_next_tokens()[0]))
            times_ms.append(clock.ms())
        return answer(0.0, times_ms, token_ids)


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    side = OnnxRuntime(args.model)
    import onnxruntime_genai

    verbs: dict[str, Verb] = {
        "generate": side.generate,
        "generate_many": one_by_one(side.generate),
        "memory": memory,
    }
    version = f"onnxruntime-genai {onnxruntime_genai.__version__}"
    channel.serve(verbs, version=version, max_rows=1)


if __name__ == "__main__":
    run(main)
