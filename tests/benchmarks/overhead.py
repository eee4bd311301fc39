"""What the service adds to the forward passes: python tests/benchmarks/overhead.py --model DIR

Two processes hold the same model: this one, which does nothing but forward passes and argmax, and a
served one, which answers the same prompts over HTTP as a stream. They take turns, prompt by prompt,
and both start from the same cached prefix, so each pair computes the same passes.

    TTFT       request sent (first pass begun) to the first text read (first token chosen)
    per token  (last text - first text) / (tokens - 1)

Printed: the medians of both, their ratio, and the median over pairs of the difference, which is
what the budget is for. Exit code 1 when it is exceeded. Quiet machine needed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.backends.base import Chunk
from appliance.backends.create import create_backend
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.config import EngineConfig
from appliance.model_dir import CHAT_TEMPLATE, read_manifest
from tests.served_process import ServedProcess

BUDGET_TTFT_MS = 5.0
BUDGET_PER_TOKEN_MS = 1.0
# Shares not even its first token with a chat.
_UNRELATED = "Zebra"
_TOPICS = ("rivers", "trains", "bread", "clocks", "winter", "maps", "violins", "harbours")


@dataclass(frozen=True)
class Timing:
    """One answer, in milliseconds."""

    ttft_ms: float
    per_token_ms: float
    num_tokens: int
    num_cached_tokens: int
    text: str


class BareRunner:
    """Prefill and decode steps on the configured backend, greedy, and nothing around them."""

    def __init__(self, model_dir: Path) -> None:
        manifest = read_manifest(model_dir)
        self._backend = create_backend(EngineConfig(), model_dir, manifest)
        self._tokenizer = Tokenizer(model_dir)
        template = (model_dir / CHAT_TEMPLATE).read_text(encoding="utf-8")
        self._template = ChatTemplate(template, self._tokenizer.special_tokens(manifest))

    def forget(self) -> None:
        """Compute one token of `_UNRELATED`, so that no prefix is known and the state is as new."""
        ids = self._tokenizer.encode(_UNRELATED, add_special_tokens=True)
        self._generate(ids, 1)

    def answer(self, prompt: str, max_tokens: int) -> Timing:
        """Compute what the service computes for the same prompt, as it computes it."""
        message = {"role": "user", "content": prompt}
        return self._generate(self._tokenizer.encode(self._template.render([message])), max_tokens)

    def _generate(self, prompt_ids: tuple[int, ...], max_tokens: int) -> Timing:
        kv, runner = self._backend.kv, self._backend.runner
        runner.idle()
        allocation = kv.allocate(prompt_ids)
        assert allocation is not None
        start, pending = allocation.num_cached_tokens, prompt_ids[allocation.num_cached_tokens :]
        answer: list[int] = []
        times = [time.perf_counter()]
        while len(answer) < max_tokens:
            assert kv.reserve(allocation.slot, len(pending))
            logits = runner.forward([Chunk(allocation.slot, pending, start, 1)])
            kv.commit(allocation.slot, pending)
            start, pending = start + len(pending), (int(logits[-1].argmax()),)
            answer += pending
            times.append(time.perf_counter())
        kv.free(allocation.slot, keep_prefix=True)
        return Timing(
            ttft_ms=(times[1] - times[0]) * 1000,
            per_token_ms=(times[-1] - times[1]) / max(1, max_tokens - 1) * 1000,
            num_tokens=len(answer),
            num_cached_tokens=allocation.num_cached_tokens,
            text=b"".join(map(self._tokenizer.token_bytes, answer)).decode(errors="replace"),
        )


class HTTPClient:
    """The cheapest client there is: one kept connection, lines read as they come."""

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
        self._model = model

    def forget(self) -> None:
        """As `BareRunner.forget`."""
        body = json.dumps({"model": self._model, "prompt": _UNRELATED, "max_tokens": 1})
        self._connection.request("POST", "/v1/completions", body)
        assert self._connection.getresponse().read()

    def answer(self, prompt: str, max_tokens: int) -> Timing:
        """Stream one chat to its end."""
        body = json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": 0,
                "repetition_penalty": 1,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        lines: list[tuple[float, bytes]] = []
        begun = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", body)
        response = self._connection.getresponse()
        while line := response.readline():
            lines.append((time.perf_counter(), line))
        # Read first, understood afterwards: this process shares the cores with the service.
        events = [
            (at, json.loads(line.removeprefix(b"data: ")))
            for at, line in lines
            if line.startswith(b"data: {")
        ]
        texts = [
            (at, choice["delta"]["content"])
            for at, event in events
            for choice in event["choices"]
            if choice["delta"].get("content")
        ]
        usage = events[-1][1]["usage"]
        return Timing(
            ttft_ms=(texts[0][0] - begun) * 1000,
            per_token_ms=(texts[-1][0] - texts[0][0]) / (usage["completion_tokens"] - 1) * 1000,
            num_tokens=usage["completion_tokens"],
            num_cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            text="".join(text for _, text in texts),
        )


def measure(
    bare: BareRunner, served: HTTPClient, *, repeats: int, max_tokens: int
) -> list[tuple[Timing, Timing]]:
    """Pairs (bare, served) of the same prompt; who goes first changes from pair to pair."""
    pairs = []
    bare.forget()
    served.forget()
    for number in range(-2, repeats):  # the first two warm up what a first chat needs
        topic = _TOPICS[number % len(_TOPICS)]
        prompt = f"Number {number}: write down all that you know about {topic}, in many sentences."
        if number % 2:
            of_bare, of_served = bare.answer(prompt, max_tokens), served.answer(prompt, max_tokens)
        else:
            of_served, of_bare = served.answer(prompt, max_tokens), bare.answer(prompt, max_tokens)
        if number >= 0:
            pairs.append((of_bare, of_served))
            assert of_bare.num_tokens == of_served.num_tokens
            assert of_bare.num_cached_tokens == of_served.num_cached_tokens
    return pairs


def report(name: str, pairs: list[tuple[float, float]], budget_ms: float) -> bool:
    """Print one line; whether the budget is kept."""
    bare = statistics.median(pair[0] for pair in pairs)
    served = statistics.median(pair[1] for pair in pairs)
    added = statistics.median(pair[1] - pair[0] for pair in pairs)
    verdict = "pass" if added <= budget_ms else f"short by {added - budget_ms:.2f} ms"
    sys.stdout.write(
        f"{name:<10} bare {bare:7.2f} ms   served {served:7.2f} ms   ratio {served / bare:.3f}   "
        f"added {added:6.2f} ms of {budget_ms:g}   {verdict}\n"
    )
    return added <= budget_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=48)
    args = parser.parse_args()
    bare = BareRunner(args.model)
    # The bare runner computes one token a pass, and both are to do the same passes.
    with ServedProcess(args.model, "engine.prompt_lookup=false") as process:
        client = HTTPClient(process.url, process.model)
        pairs = measure(bare, client, repeats=args.repeats, max_tokens=args.max_tokens)
    equal = sum(of_bare.text == of_served.text for of_bare, of_served in pairs)
    sys.stdout.write(f"{len(pairs)} pairs of {args.max_tokens} tokens, {equal} with equal texts\n")
    ttft = [(of_bare.ttft_ms, of_served.ttft_ms) for of_bare, of_served in pairs]
    per_token = [(of_bare.per_token_ms, of_served.per_token_ms) for of_bare, of_served in pairs]
    kept = [
        report("TTFT", ttft, BUDGET_TTFT_MS),
        report("per token", per_token, BUDGET_PER_TOKEN_MS),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
