"""What prompt lookup is worth: python tests/benchmarks/lookup.py --model DIR

One process, one loaded model, four sets of prompts (`lookup_prompts.yaml`). Every prompt is
answered greedily with drafts and without, in turns, and who goes first changes from prompt to
prompt. Both answers begin from the same known prompt and are timed from first to last token.

Printed per set: tokens/s with drafts divided by tokens/s without (all answers of the set together,
and the median over prompts), tokens per pass, the ratio that the passes would give at the costs the
planner reckons with, and how many drafts were accepted. Exit code 1 when a bar is missed. Quiet
machine needed; the passes and what follows from them do not need it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.backends.base import Backend, Chunk, ModelRunner
from appliance.backends.create import create_backend
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.config import EngineConfig
from appliance.engine.engine import Engine
from appliance.engine.pass_cost import PassCost
from appliance.engine.sampling_params import SamplingParams
from appliance.model_dir import CHAT_TEMPLATE, read_manifest

PROMPTS = Path(__file__).with_name("lookup_prompts.yaml")
BARS = {"extract": 1.5, "summarise": 1.5, "edit": 1.5, "chat": 0.98}
TOGETHER = ("extract", "summarise", "edit")


@dataclass(frozen=True)
class Answer:
    """One answer behind its first token: `num_tokens` in `seconds`, by `num_passes`.

    `cost`: of those passes, in decode steps, as the planner reckons.
    """

    num_tokens: int
    seconds: float
    num_passes: int
    cost: float
    num_drafted: int
    num_accepted: int


@dataclass(frozen=True)
class LookupResult:
    """One set of prompts, or several together; ratios are with drafts to without."""

    name: str
    bar: float
    num_prompts: int
    tokens_per_s: float
    tokens_per_s_without: float
    median_ratio: float
    reckoned_ratio: float
    tokens_per_pass: float
    acceptance: float

    @property
    def ratio(self) -> float:
        return self.tokens_per_s / self.tokens_per_s_without

    @property
    def verdict(self) -> str:
        short = self.bar - self.ratio
        return "pass" if short <= 0 else f"short by {short:.2f}"


class CountingRunner:
    """Counts what another runner computes, and stays open when an engine is done with it."""

    def __init__(self, runner: ModelRunner) -> None:
        self.limits = runner.limits
        self._runner = runner
        self._cost = PassCost(runner.limits.position_cost)
        self._passes: list[Chunk] = []

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        self._passes += chunks  # one: nobody else is there
        return self._runner.forward(chunks)

    def idle(self) -> None:
        self._runner.idle()

    def close(self) -> None:
        """Another engine comes."""

    def take_costs(self) -> list[float]:
        """Of all passes since the last call that came behind the first one with logits."""
        passes, self._passes = self._passes, []
        first = next(index for index, chunk in enumerate(passes) if chunk.num_logits)
        return [self._cost_of(before, chunk) for before, chunk in pairwise(passes[first:])]

    def _cost_of(self, before: Chunk, chunk: Chunk) -> float:
        num_tokens = len(chunk.token_ids)
        num_positions = num_tokens * chunk.start if num_tokens > 1 else 0
        resized = num_tokens != len(before.token_ids)
        return self._cost.of(num_tokens, num_positions, resized=resized)


class Answerer:
    """A loaded model, on which engines with and without drafts take turns."""

    def __init__(self, model_dir: Path, kv_cache: str, max_draft_tokens: int) -> None:
        manifest = read_manifest(model_dir)
        self._config = EngineConfig(kv_cache=kv_cache)  # type: ignore[arg-type]
        loaded = create_backend(self._config, model_dir, manifest)
        self._runner = CountingRunner(loaded.runner)
        self._backend = Backend(loaded.kv, self._runner, loaded.description)
        self._tokenizer = Tokenizer(model_dir)
        template = (model_dir / CHAT_TEMPLATE).read_text(encoding="utf-8")
        self._template = ChatTemplate(template, self._tokenizer.special_tokens(manifest))
        self._stop = frozenset(manifest.eos_token_ids)
        self._max_draft_tokens = max_draft_tokens

    def pair(
        self, prompt: str, max_tokens: int, *, drafts_first: bool
    ) -> tuple[Answer, Answer] | None:
        """The answer with drafts and the one without; None when one has no second token."""
        message = {"role": "user", "content": prompt}
        prompt_ids = self._tokenizer.encode(self._template.render([message]))
        asyncio.run(self._answer(prompt_ids, 1, 0))
        answers = {
            drafts: asyncio.run(self._answer(prompt_ids, max_tokens, drafts))
            for drafts in sorted((0, self._max_draft_tokens), reverse=drafts_first)
        }
        pair = answers[self._max_draft_tokens], answers[0]
        return pair if all(answer.num_tokens for answer in pair) else None

    async def _answer(
        self, prompt_ids: tuple[int, ...], max_tokens: int, max_draft_tokens: int
    ) -> Answer:
        engine = Engine(
            self._backend,
            prefill_chunk=self._config.prefill_chunk,
            max_waiting=1,
            max_draft_tokens=max_draft_tokens,
        )
        engine.start()
        params = SamplingParams(max_tokens, temperature=0, stop_token_ids=self._stop)
        times, num_tokens = [], 0
        async for output in engine.submit(prompt_ids, params, timeout_s=3600).outputs():
            times.append(time.perf_counter())
            num_tokens += len(output.token_ids)
        await engine.close()
        costs = self._runner.take_costs()
        return Answer(
            num_tokens=max(0, num_tokens - 1),
            seconds=times[-1] - times[0],
            num_passes=len(costs),
            cost=sum(costs),
            num_drafted=engine.drafts.num_drafted,
            num_accepted=engine.drafts.num_accepted,
        )


def measure(
    model_dir: Path,
    *,
    kv_cache: str = "stateful",
    num_prompts: int = 20,
    max_tokens: int = 256,
    max_draft_tokens: int = EngineConfig().max_draft_tokens,
    progress: Callable[[LookupResult], None] = lambda result: None,
) -> list[LookupResult]:
    """Every set, told to `progress` as it is done, and the three that repeat the prompt together.

    `num_prompts` of each set are asked at most; an answer has at most `max_tokens`.
    """
    answerer = Answerer(model_dir, kv_cache, max_draft_tokens)
    pairs, results = {}, []
    for name, prompts in read_prompts().items():
        answered = [
            answerer.pair(prompt, max_tokens, drafts_first=bool(number % 2))
            for number, prompt in enumerate(prompts[:num_prompts])
        ]
        pairs[name] = [pair for pair in answered if pair is not None]
        results.append(summary(name, BARS[name], pairs[name]))
        progress(results[-1])
    together = [pair for name in TOGETHER for pair in pairs[name]]
    results.append(summary(" + ".join(TOGETHER), 1.5, together))
    progress(results[-1])
    return results


def read_prompts() -> dict[str, list[str]]:
    """The prompts of each set; a document stands before the question about it."""
    sets = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    return {
        name: ["\n".join(filter(None, (one.get("document"), one["ask"]))) for one in prompts]
        for name, prompts in sets.items()
    }


def summary(name: str, bar: float, pairs: Sequence[tuple[Answer, Answer]]) -> LookupResult:
    """The figures of some pairs (with drafts, without)."""
    assert pairs, f"{name}: no answer had a second token"
    with_drafts, without = total(pair[0] for pair in pairs), total(pair[1] for pair in pairs)
    speed, speed_without = (one.num_tokens / one.seconds for one in (with_drafts, without))
    return LookupResult(
        name=name,
        bar=bar,
        num_prompts=len(pairs),
        tokens_per_s=speed,
        tokens_per_s_without=speed_without,
        median_ratio=statistics.median(
            a.num_tokens / a.seconds / (b.num_tokens / b.seconds) for a, b in pairs
        ),
        # A last pass may give no token but the end.
        reckoned_ratio=(with_drafts.num_tokens / with_drafts.cost)
        / (without.num_tokens / without.cost),
        tokens_per_pass=with_drafts.num_tokens / with_drafts.num_passes,
        acceptance=with_drafts.num_accepted / max(1, with_drafts.num_drafted),
    )


def total(answers: Iterable[Answer]) -> Answer:
    """All of them as one."""
    return Answer(*map(sum, zip(*map(astuple, answers), strict=True)))


def line(result: LookupResult) -> str:
    """One row of the table."""
    return (
        f"{result.name:<26}{result.ratio:6.2f}{result.bar:6.2f}  {result.verdict:<14}"
        f"{result.median_ratio:6.2f}{result.reckoned_ratio:9.2f}"
        f"{result.tokens_per_s_without:8.1f} ->{result.tokens_per_s:7.1f}"
        f"{result.tokens_per_pass:12.2f}{result.acceptance:10.0%}{result.num_prompts:9}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kv-cache", choices=("stateful", "paged"), default="stateful")
    parser.add_argument("--prompts", type=int, default=20, help="of each set, at most")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--max-drafts", type=int, default=EngineConfig().max_draft_tokens)
    args = parser.parse_args()
    print(
        f"{'set':<26}{'ratio':>6}{'bar':>6}  {'':<14}{'median':>6}{'reckoned':>9}"
        f"{'tokens/s':>18}{'tokens/pass':>12}{'accepted':>10}{'prompts':>9}"
    )
    results = measure(
        args.model,
        kv_cache=args.kv_cache,
        num_prompts=args.prompts,
        max_tokens=args.max_tokens,
        max_draft_tokens=args.max_drafts,
        progress=lambda result: print(line(result), flush=True),
    )
    return 0 if all(result.verdict == "pass" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
