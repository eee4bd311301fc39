"""Measures modes of weight compression against each other: what RECIPES was chosen from.

    python -m provisioning.build_model.compare_modes CHECKOUT WORK MODE [MODE...]

CHECKOUT is a Hugging Face checkout, WORK a directory for what is made (kept, and used again).
Prints quality, size and decode time of each mode. A mode is written as NNCF names it, with group
size and ratio where it has them: INT8_SYM, INT4_ASYM:64:0.8.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.model_dir import MODEL_BIN, MODEL_XML, Weights
from provisioning.build_model.compress import Recipe, compress
from provisioning.build_model.export import export_stateful
from provisioning.build_model.ir_edit import gather_before_lm_head
from provisioning.build_model.ir_session import IrSession
from provisioning.build_model.progress import create_progress
from provisioning.build_model.quality import compare
from provisioning.build_model.reference import IDS, write_reference
from provisioning.build_model.sources.base import Checkout
from provisioning.build_model.tokenizer_files import read_text_side

# Close to how the service compiles; its own values are measured on the box.
AS_SERVED = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128",
    "PERFORMANCE_HINT": "LATENCY",
}
_PROMPT = tuple(range(100, 141))
_ROUNDS = 120


def main(argv: Sequence[str]) -> None:
    """Make what is missing, measure, print one line per mode and one per timing."""
    checkout, work, *modes = argv
    progress = create_progress(sys.stdout)
    directory = Path(work)
    exported, reference = directory / "export", directory / "reference"
    if not (exported / MODEL_XML).exists():
        with progress.stage("export"):
            export_stateful(Path(checkout), exported)
    if not (reference / IDS).exists():
        reference.mkdir(parents=True, exist_ok=True)
        text = read_text_side(Path(checkout))
        with progress.stage("reference", unit="prompts") as stage:
            write_reference(Checkout(Path(checkout), is_openvino=False), text, reference, stage)
    for mode in modes:
        model = _made(exported, directory / mode.replace(":", "-"), mode)
        with progress.stage(mode, unit="prompts") as stage:
            figures = compare(IrSession(model), reference, stage)
        progress.note(_quality_line(mode, figures, model))
    for line in decode_times({mode: directory / mode.replace(":", "-") for mode in modes}):
        progress.note(line)


def decode_times(models: dict[str, Path]) -> list[str]:
    """One line per model: lower quartile of a decode step, and its ratio to the first model's.

    The models take turns, a few steps each, so that a noisy machine is noisy for all of them.
    """
    sessions = {name: IrSession(path / MODEL_XML, AS_SERVED) for name, path in models.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.forward(_PROMPT, [])
    for turn in range(_ROUNDS):
        for name in list(sessions)[:: 1 if turn % 2 else -1]:
            sessions[name].forward([5], [0])  # the other model's weights are still in the cache
            for _ in range(2):
                started = time.perf_counter()
                sessions[name].forward([5], [0])
                times[name].append(1000 * (time.perf_counter() - started))
    quartiles = {name: statistics.quantiles(taken, n=4)[0] for name, taken in times.items()}
    first = next(iter(quartiles.values()))
    return [
        f"{name}: {quartile:.1f} ms per token, ratio {quartile / first:.3f}"
        for name, quartile in quartiles.items()
    ]


def _made(exported: Path, directory: Path, mode: str) -> Path:
    """The edited IR compressed by `mode`, made if it is missing."""
    import openvino as ov

    if not (directory / MODEL_XML).exists():
        directory.mkdir(parents=True, exist_ok=True)
        model = compress(ov.Core().read_model(exported / MODEL_XML), recipe_of(mode))
        gather_before_lm_head(model)
        ov.save_model(model, directory / MODEL_XML, compress_to_fp16=False)
    return directory / MODEL_XML


def recipe_of(mode: str) -> Recipe:
    """`INT4_ASYM:64:0.8` as a recipe; the backup of what is not four bits is INT8 symmetric."""
    name, *grouped = mode.split(":")
    symmetric = name.endswith("_SYM")
    if not grouped:
        return Recipe(name, -1, None, None, Weights("int8", symmetric, -1))
    group_size, ratio = int(grouped[0]), float(grouped[1]) if len(grouped) > 1 else 1.0
    weights = Weights("int4", symmetric, group_size)
    return Recipe(name, group_size, ratio, "INT8_SYM", weights)


def _quality_line(mode: str, figures: dict[str, Any], model: Path) -> str:
    size = (model.parent / MODEL_BIN).stat().st_size
    return (
        f"{mode}: top-1 {figures['top1_agreement']:.2%}, KL {figures['mean_kl']:.4f}, "
        f"{size / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
