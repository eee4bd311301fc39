"""Reads the IR of a model directory and compiles it for the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import openvino as ov

from appliance.backends.compile_options import CompileOptions, bound_onednn_cache
from appliance.errors import BackendError, ModelDirError
from appliance.model_dir import MODEL_XML

_SOURCE_PLACE = re.compile(r"Exception from \S+:\d+:$|Check '.*' failed at \S+:\d+:$")

INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "beam_idx", "logits_indices"})


def compile_model(
    model_dir: Path, options: CompileOptions, edit: Callable[[ov.Model], None] | None = None
) -> ov.CompiledModel:
    """Compile the IR in `model_dir` for the CPU, after `edit` changed it in memory.

    Raises `ModelDirError` when the IR is missing or not one of ours, `BackendError` when OpenVINO
    refuses it, and what `edit` raises.
    """
    path = ir_path(model_dir)
    bound_onednn_cache()
    core = ov.Core()
    try:
        # By its path, a model found in the compile cache is not even read.
        model: ov.Model | Path = path if edit is None else core.read_model(path)
        if edit is not None:
            edit(model)
        compiled = core.compile_model(model, "CPU", options.properties())
    except RuntimeError as error:
        raise BackendError(f"OpenVINO cannot compile {path}: {refusal(error)}") from error
    inputs = {name for port in compiled.inputs for name in port.get_names()}
    if missing := sorted(INPUTS - inputs):
        raise ModelDirError(
            model_dir,
            f"{MODEL_XML} has no input {missing[0]}; build it again with "
            "provisioning/build-model.sh",
        )
    return compiled


def ir_path(model_dir: Path) -> Path:
    """Where the IR of `model_dir` is. Raises `ModelDirError` when it is missing."""
    path = model_dir / MODEL_XML
    if not path.is_file():
        raise ModelDirError(
            model_dir, f"{MODEL_XML} is missing; build it again with provisioning/build-model.sh"
        )
    return path


def num_threads(compiled: ov.CompiledModel) -> int:
    """How many threads compute a pass."""
    return int(compiled.get_property("INFERENCE_NUM_THREADS"))


def cpu_capabilities() -> frozenset[str]:
    """What OpenVINO says this CPU computes in, such as `INT8`, `BF16`."""
    return frozenset(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def refusal(error: Exception) -> str:
    """OpenVINO's message in one line, without the lines that name places in its own sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not _SOURCE_PLACE.match(line)]
    return " ".join(told) or "unknown error"
