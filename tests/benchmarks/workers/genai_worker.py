"""openvino.genai, with token ids in and out, so that it needs no tokenizer.

    genai_worker.py --model DIR --pipeline continuous|stateful --eos ID

`continuous` is its ContinuousBatchingPipeline with prefix caching, set up as LLMPipeline sets it up
on a CPU, but with a fixed pool, so that none of its growing is measured; `stateful` its LLMPipeline
over OpenVINO's stateful KV cache. Every other choice is its own default.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from worker_protocol import Channel, Clock, Verb, answer, memory, one_by_one, run

_POOL_GB = 1
_MAX_ROWS = 8


class Continuous:
    """Steps the pipeline by hand, as its own server does, and reads every row after each step."""

    def __init__(self, model_dir: str, eos_token_id: int) -> None:
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = _POOL_GB
        scheduler.max_num_batched_tokens = 2**31
        tokenizer = genai.Tokenizer(model_dir)
        self._pipeline = genai.ContinuousBatchingPipeline(model_dir, tokenizer, scheduler, "CPU")
        self._eos_token_id = eos_token_id
        self._num_added = 0

    def generate(self, **request: Any) -> dict[str, Any]:
        """One request, alone."""
        (only,) = self.generate_many([request], clients=1)
        return only

    def generate_many(self, requests: list[dict[str, Any]], clients: int) -> list[dict[str, Any]]:
        """A new request joins as soon as one of the clients is free and its time has come."""
        clock = Clock()
        answers: list[dict[str, Any]] = []
        waiting = list(enumerate(requests))
        running: dict[int, Any] = {}
        while waiting or running:
            while waiting and len(running) < clients:
                number, request = waiting[0]
                wait_ms = request.get("at_ms", 0.0) - clock.ms()
                if wait_ms > 0 and running:
                    break
                time.sleep(max(0.0, wait_ms) / 1000)
                waiting.pop(0)
                answers.append(answer(clock.ms(), [], []))
                running[number] = self._add(request)
            self._pipeline.step()
            for number, handle in list(running.items()):
                if self._read(handle, answers[number], clock.ms()):
                    del running[number]
        return answers

    def _add(self, request: dict[str, Any]) -> Any:
        import numpy as np
        import openvino as ov

        config = _greedy(request["max_tokens"], request["ignore_eos"], self._eos_token_id)
        ids = ov.Tensor(np.array([request["prompt_ids"]], dtype=np.int64))
        self._num_added += 1
        return self._pipeline.add_request(self._num_added, ids, config)

    def _read(self, handle: Any, into: dict[str, Any], now_ms: float) -> bool:
        """Take what one row has said since the last step; whether it has ended."""
        import openvino_genai as genai

        while handle.can_read():
            for output in handle.read().values():
                into["token_ids"] += output.generated_ids
                into["times_ms"] += [now_ms] * len(output.generated_ids)
        into["num_tokens"] = len(into["token_ids"])
        return bool(handle.get_status() != genai.GenerationStatus.RUNNING)


class Stateful:
    """One stream at a time, read through a streamer."""

    def __init__(self, model_dir: str, eos_token_id: int) -> None:
        import openvino_genai as genai

        tokenizer = genai.Tokenizer(model_dir)
        self._pipeline = genai.LLMPipeline(model_dir, tokenizer, "CPU", ATTENTION_BACKEND="SDPA")
        self._eos_token_id = eos_token_id
        self.generate_many = one_by_one(self.generate)

    def generate(self, prompt_ids: list[int], max_tokens: int, ignore_eos: bool) -> dict[str, Any]:
        """One request, alone."""
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        class Streamer(genai.StreamerBase):  # type: ignore[misc]
            def write(self, token: int | list[int]) -> Any:
                ids = [token] if isinstance(token, int) else list(token)
                token_ids.extend(ids)
                times_ms.extend([clock.ms()] * len(ids))
                return genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        token_ids: list[int] = []
        times_ms: list[float] = []
        ids = np.array([prompt_ids], dtype=np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        config = _greedy(max_tokens, ignore_eos, self._eos_token_id)
        clock = Clock()
        self._pipeline.generate(inputs, config, Streamer())
        return answer(0.0, times_ms, token_ids)


def _greedy(max_tokens: int, ignore_eos: bool, eos_token_id: int) -> Any:
    import openvino_genai as genai

    config = genai.GenerationConfig()
    config.set_eos_token_id(eos_token_id)
    config.max_new_tokens = max_tokens
    config.ignore_eos = ignore_eos
    config.do_sample = False
    return config


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pipeline", choices=("continuous", "stateful"), required=True)
    parser.add_argument("--eos", type=int, required=True)
    args = parser.parse_args()
    kind = {"continuous": Continuous, "stateful": Stateful}[args.pipeline]
    side = kind(args.model, args.eos)
    import openvino_genai

    verbs: dict[str, Verb] = {
        "generate": side.generate,
        "generate_many": side.generate_many,
        "memory": memory,
    }
    max_rows = _MAX_ROWS if args.pipeline == "continuous" else 1
    channel.serve(verbs, version=f"openvino-genai {openvino_genai.__version__}", max_rows=max_rows)


if __name__ == "__main__":
    run(main)
