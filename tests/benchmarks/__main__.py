"""Every bar of this project on this machine, and the peers beside it: make bench MODEL=DIR

The README beside this file says what is measured and how. Exit code 0 when every bar that was
measured is reached by one variant at least, 1 when one is not, 2 for a wrong argument, 3 for a
model directory that cannot be used.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.bench.machine import this_machine
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.errors import ModelDirError
from appliance.model_dir import CHAT_TEMPLATE, read_manifest, verify_files
from tests.benchmarks.bars import (
    clients,
    correctness,
    decode,
    joining,
    memory,
    new_prompt,
    next_turn,
    prompt_lookup,
    repeated_prompt,
    rows_together,
    side_by_side,
)
from tests.benchmarks.harness import arguments, report
from tests.benchmarks.harness.comparison import Row
from tests.benchmarks.harness.fleet import Fleet, Side
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.prompts import Prompts
from tests.benchmarks.peers import genai, llama_cpp, onnx_runtime, ours, transformers_bf16, vllm
from tests.benchmarks.peers.inputs import Inputs

ROOT = Path(__file__).resolve().parents[2]
BARS: dict[str, Callable[[Lab], list[Row]]] = {
    "decode": decode.measure,
    "repeated": repeated_prompt.measure,
    "next-turn": next_turn.measure,
    "new-prompt": new_prompt.measure,
    "rows": rows_together.measure,
    "clients": clients.measure,
    "joining": joining.measure,
    "lookup": prompt_lookup.measure,
    "memory": memory.measure,
    "correctness": correctness.measure,
}
SIDE_BY_SIDE = "side-by-side"
PEERS: dict[str, Callable[[Inputs], list[Side]]] = {
    "genai": genai.sides,
    "llama.cpp": llama_cpp.sides,
    "vllm": vllm.sides,
    "onnx": onnx_runtime.sides,
    "transformers": transformers_bf16.sides,
}


def main() -> int:
    args = arguments.parse((*BARS, SIDE_BY_SIDE), tuple(PEERS), ours.VARIANTS)
    begun = time.monotonic()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    try:
        inputs = _inputs(args)
        prompts = _prompts(inputs, seed)
    except ModelDirError as error:
        _say(str(error))
        return error.exit_code
    machine = this_machine()
    print(f"{inputs.manifest.name}, seed {seed}; {machine.cpu_model}, {machine.num_cpus} CPUs,")
    print(f"governor {machine.governor}, {machine.kernel}, load {machine.load_average}")
    if args.set:
        print(f"this project's sides with {' '.join(f'{k}={v}' for k, v in args.set.items())}")
    for variant in args.kv:
        _fresh(inputs.saved_prefixes(variant))
    peers = [side for name in args.peers for side in PEERS[name](inputs)]
    sides = {side.name: side for side in [*ours.sides(inputs, args.kv), *peers]}
    with Fleet(sides, _fresh(inputs.cache_dir / "logs"), _say) as fleet:
        lab = Lab(fleet, prompts, args.kv, inputs.model_dir, args.repeats, _say)
        rows = _measured(lab, args.only)
        standings = []
        if SIDE_BY_SIDE in args.only:
            _say(SIDE_BY_SIDE)
            standings = side_by_side.measure_standings(lab, [side.name for side in peers])
    for line in report.all_tables(rows, standings, args.kv, fleet):
        print(line)
    minutes = (time.monotonic() - begun) / 60
    print(
        f"{report.summary(rows)}; {minutes:.1f} minutes in all, "
        f"{fleet.prepared_s / 60:.1f} of them installing and converting"
    )
    if args.json:
        about = {"model": inputs.manifest.name, "settings": args.set, "seed": seed}
        about |= {"repeats": args.repeats, "minutes": minutes}
        report.write_json(args.json, rows, standings, fleet, about)
    return 0 if all(row.passed or not row.ours for row in rows) else 1


def _measured(lab: Lab, wanted: tuple[str, ...]) -> list[Row]:
    rows = []
    for name, measure in BARS.items():
        if name in wanted:
            begun = time.monotonic()
            rows += measure(lab)
            _say(f"{name}: {time.monotonic() - begun:.0f} s")
    return rows


def _inputs(args: argparse.Namespace) -> Inputs:
    """Raises `ModelDirError`."""
    manifest = read_manifest(args.model)
    verify_files(args.model, manifest, checksums=False)
    cache_dir = ROOT / "tests" / ".work" / "bench"
    cache_dir.mkdir(parents=True, exist_ok=True)
    return Inputs(
        args.model.absolute(), manifest, args.gguf, args.checkpoint, args.set, ROOT, cache_dir
    )


def _prompts(inputs: Inputs, seed: int) -> Prompts:
    """Raises `ModelDirError`."""
    tokenizer = Tokenizer(inputs.model_dir)
    text = (inputs.model_dir / CHAT_TEMPLATE).read_text(encoding="utf-8")
    return Prompts(tokenizer, ChatTemplate(text, tokenizer.special_tokens(inputs.manifest)), seed)


def _fresh(directory: Path) -> Path:
    """`directory`, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _say(line: str) -> None:
    """What goes on, beside the tables."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
