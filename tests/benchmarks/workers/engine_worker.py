"""This project's engine in process: engine_worker.py --model DIR [--set KEY=VALUE] [--margins]

The service as `serve` composes it, from its calibration to the warm-up, without the HTTP around
it; token ids go into the engine and come out of it. With `--margins`, answers say for each token
how far the best logit was above the second best.

Verbs besides those of all workers: `stats` (what the KV cache holds), `generate` and
`generate_many` take `abort_after`, a number of tokens after which the reader lets go.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

from worker_protocol import Channel, Clock, Verb, answer, closed_loop, memory, run

_TIMEOUT_S = 600.0


class MarginRunner:
    """A runner that notes, for every pass with logits, best minus second best of its last row."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.margins: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def forward(self, chunks: Sequence[Any]) -> Any:
        """As the runner below."""
        import numpy as np

        logits = self._runner.forward(chunks)
        if len(logits):
            second, best = np.partition(logits[-1], -2)[-2:]
            self.margins.append(float(best - second))
        return logits


class EngineSide:
    """The appliance and an event loop that runs while a verb does."""

    def __init__(self, model_dir: Path, settings: dict[str, str], *, margins: bool) -> None:
        import uvloop

        from appliance.app import Appliance
        from appliance.backends.create import create_backend
        from appliance.config import load_config
        from appliance.errors import ApplianceError
        from appliance.model_dir import read_manifest
        from appliance.tune.apply import with_calibration

        overrides = {"--model": str(model_dir), **settings}
        no_file = model_dir / "no such file"
        given = load_config(None, {}, overrides, default_file=no_file)
        loaded = with_calibration(given)
        self.calibrated = loaded.config != given.config
        config = loaded.config
        self._manifest = read_manifest(model_dir)
        self._runner: MarginRunner | None = None
        backend = None
        if margins:
            backend = create_backend(config.engine, model_dir, self._manifest)
            self._runner = MarginRunner(backend.runner)
            backend = dataclasses.replace(backend, runner=self._runner)
        failures: list[ApplianceError] = []
        self._appliance = Appliance(config, backend)
        self._appliance.on_failure = failures.append
        self._loop = uvloop.new_event_loop()  # as `serve` has it
        self._loop.run_until_complete(self._appliance.start())
        if failures:
            raise failures[0]
        # What a service would reach through its completer, with text on both sides of it.
        self._engine: Any = self._appliance._engine

    @property
    def max_rows(self) -> int:
        """How many sequences it computes at once."""
        return int(self._engine.limits.max_slots)

    def close(self) -> None:
        """End as the service ends: drain, save what it saves, free."""
        self._loop.run_until_complete(self._appliance.close())
        self._loop.close()

    def generate(self, **request: Any) -> dict[str, Any]:
        """One request, alone."""
        clock = Clock()
        if self._runner is not None:
            self._runner.margins.clear()
        given = self._loop.run_until_complete(self._answer(clock, **request))
        if self._runner is not None:
            given["margins"] = self._runner.margins[: given["num_tokens"]]
        return given

    def generate_many(self, requests: list[dict[str, Any]], clients: int) -> list[dict[str, Any]]:
        """C clients take the requests in order."""
        return self._loop.run_until_complete(closed_loop(self._answer, requests, clients))

    def stats(self) -> dict[str, int]:
        """The KV cache's counters."""
        return dataclasses.asdict(self._engine.kv_stats())

    async def _answer(
        self,
        clock: Clock,
        prompt_ids: list[int],
        max_tokens: int,
        ignore_eos: bool,
        abort_after: int | None = None,
    ) -> dict[str, Any]:
        from appliance.engine.sampling_params import SamplingParams

        stop = frozenset() if ignore_eos else frozenset(self._manifest.eos_token_ids)
        params = SamplingParams(max_tokens=max_tokens, temperature=0, stop_token_ids=stop)
        token_ids: list[int] = []
        times_ms: list[float] = []
        num_cached_tokens = 0
        start_ms = clock.ms()
        generation = self._engine.submit(tuple(prompt_ids), params, timeout_s=_TIMEOUT_S)
        async for output in generation.outputs():
            times_ms.extend([clock.ms()] * len(output.token_ids))
            token_ids.extend(output.token_ids)
            num_cached_tokens = output.num_cached_tokens
            if abort_after is not None and len(token_ids) >= abort_after:
                generation.abort()
        return answer(start_ms, times_ms, token_ids, num_cached_tokens=num_cached_tokens)


def main(channel: Channel) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--margins", action="store_true")
    args = parser.parse_args()
    begun = time.perf_counter()
    settings = dict(pair.split("=", 1) for pair in args.set)
    side = EngineSide(args.model, settings, margins=args.margins)
    import openvino

    sys.stderr.write(f"ready after {time.perf_counter() - begun:.1f} s\n")
    release = openvino.__version__.split("-")[0]
    version = f"OpenVINO {release}, {'' if side.calibrated else 'not '}calibrated"
    verbs: dict[str, Verb] = {
        "generate": side.generate,
        "generate_many": side.generate_many,
        "stats": side.stats,
        "memory": memory,
    }
    try:
        channel.serve(verbs, version=version, max_rows=side.max_rows)
    finally:
        side.close()


if __name__ == "__main__":
    run(main)
