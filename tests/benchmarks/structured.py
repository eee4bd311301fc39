"""What a form costs that an answer must have: python tests/benchmarks/structured.py --model DIR

One process, one loaded model, drafts off. In every round one prompt is answered without a form and
under each of several, in turns, with the same number of tokens each; who goes first changes. A
round's figure is (last - first token) / (tokens - 1) under a form divided by the same without, and
the median over rounds counts. Printed beside it: milliseconds per token that went into the form
itself, and what the vocabulary took. Exit code 1 when a bar is missed. Quiet machine needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.backends.create import create_backend
from appliance.chat.grammar import Grammar
from appliance.chat.grammar_compiler import GrammarCompiler
from appliance.chat.output_format import FormatKind, OutputFormat, json_schema
from appliance.chat.tokenizer import Tokenizer
from appliance.config import EngineConfig
from appliance.engine.engine import Engine
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.token_constraint import TokenConstraint
from appliance.model_dir import read_manifest

BAR = 1.10
PROMPT = "Tell me about the rivers of Europe, one after the other, with their cities."

_ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "length_km": {"type": "integer", "minimum": 1},
        "cities": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "length_km", "cities"],
    "additionalProperties": False,
}
# None of them ends before it has some hundreds of tokens.
FORMS = {
    "any text": OutputFormat(FormatKind.REGEX, r"(.|\n){2000,}", "guided_regex"),
    "one long string": json_schema({"type": "string", "minLength": 4000}, "guided_json"),
    "records": json_schema({"type": "array", "items": _ITEM, "minItems": 100}, "guided_json"),
    "pattern": OutputFormat(
        FormatKind.REGEX, r"([A-Z][a-z]+( [a-z]+){2,9}\. ){200}", "guided_regex"
    ),
}


class TimedConstraint:
    """Another one, and how long it took."""

    def __init__(self, constraint: TokenConstraint) -> None:
        self._constraint = constraint
        self.seconds = 0.0

    def allowed(self) -> bytes:
        began = time.thread_time()
        bits = self._constraint.allowed()
        self.seconds += time.thread_time() - began
        return bits

    def accept(self, token_id: int) -> None:
        began = time.thread_time()
        self._constraint.accept(token_id)
        self.seconds += time.thread_time() - began

    @property
    def is_complete(self) -> bool:
        return self._constraint.is_complete


async def per_token_s(
    engine: Engine, prompt_ids: tuple[int, ...], num_tokens: int, constraint: TokenConstraint | None
) -> float:
    params = SamplingParams(num_tokens, temperature=0.7, seed=1)
    times = [
        time.perf_counter()
        async for _ in engine.submit(
            prompt_ids, params, timeout_s=600, constraint=constraint
        ).outputs()
    ]
    assert len(times) == num_tokens, "the form ended too early"
    return (times[-1] - times[0]) / (len(times) - 1)


async def measure(
    engine: Engine,
    prompt_ids: tuple[int, ...],
    grammars: Mapping[str, Grammar],
    rounds: int,
    num_tokens: int,
) -> dict[str, tuple[list[float], list[float]]]:
    """Per form: the ratios of all rounds, and the form's own seconds per token."""
    figures: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in grammars}
    await per_token_s(engine, prompt_ids, num_tokens, None)
    for number in range(rounds):
        for name, grammar in grammars.items():
            constraint = TimedConstraint(grammar.start())
            spent = {}
            for rule in sorted((None, constraint), key=bool, reverse=bool(number % 2)):
                spent[rule] = await per_token_s(engine, prompt_ids, num_tokens, rule)
            figures[name][0].append(spent[constraint] / spent[None])
            figures[name][1].append(constraint.seconds / num_tokens)
    return figures


async def run(args: argparse.Namespace) -> bool:
    manifest = read_manifest(args.model)
    config = EngineConfig(kv_cache=args.kv_cache)
    backend = create_backend(config, args.model, manifest)
    engine = Engine(backend, prefill_chunk=config.prefill_chunk, max_waiting=1)
    tokenizer = Tokenizer(args.model)
    compiler = GrammarCompiler(
        tokenizer,
        vocab_size=engine.limits.vocab_size,
        eos_token_ids=manifest.eos_token_ids,
        timeout_s=60,
    )
    anonymous_mb, began = rss_anon_mb(), time.perf_counter()
    await compiler.compile(json_schema({"type": "object"}, "guided_json"))
    print(
        f"vocabulary of {engine.limits.vocab_size}: {time.perf_counter() - began:.2f} s, "
        f"{rss_anon_mb() - anonymous_mb:.0f} MB"
    )
    grammars = {name: await compiler.compile(form) for name, form in FORMS.items()}
    engine.start()
    figures = await measure(engine, tokenizer.encode(PROMPT), grammars, args.rounds, args.tokens)
    await engine.close()
    medians = {name: statistics.median(ratios) for name, (ratios, _) in figures.items()}
    for name, (ratios, seconds) in figures.items():
        print(
            f"{name:<18}{medians[name]:6.3f} of {BAR:.2f} ({min(ratios):.3f} to {max(ratios):.3f})"
            f"{1e3 * statistics.median(seconds):8.3f} ms per token in the form"
        )
    if args.json:
        args.json.write_text(json.dumps(figures), encoding="utf-8")
    return all(median <= BAR for median in medians.values())


def rss_anon_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kv-cache", choices=("stateful", "paged"), default="stateful")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round of every figure")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
