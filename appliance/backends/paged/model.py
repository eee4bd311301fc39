"""Turns the stateful IR into one with paged attention.

The transformation is the one that openvino.genai uses; OpenVINO ships it in a private module, whose
inputs have changed between releases. So it is used with the releases it was tested with, and any
other is refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import openvino as ov

from appliance.backends.block_pool import BLOCK_SIZE
from appliance.backends.compile_options import CompileOptions, bound_onednn_cache
from appliance.backends.loader import ir_path, refusal
from appliance.errors import BackendError

TESTED_RELEASES = ("2026.4",)


def compile_paged(model_dir: Path, options: CompileOptions) -> ov.CompiledModel:
    """Transform and compile the IR in `model_dir` for the CPU.

    Raises `BackendError` with another OpenVINO than `TESTED_RELEASES` or when OpenVINO refuses,
    `ModelDirError` when there is no IR.
    """
    check_release(ov.__version__)
    from openvino._offline_transformations import paged_attention_transformation

    path = ir_path(model_dir)
    bound_onednn_cache()
    try:
        model = ov.Core().read_model(path)
        paged_attention_transformation(model)
        return ov.Core().compile_model(model, "CPU", options.properties())
    except RuntimeError as error:
        raise BackendError(
            f"OpenVINO cannot compile {path} with paged attention: {refusal(error)}"
        ) from error


def check_release(version: str) -> None:
    """Raise `BackendError` unless the private transformation was tested with this OpenVINO."""
    release = ".".join(version.split(".")[:2])
    if release not in TESTED_RELEASES:
        raise BackendError(
            f"engine.kv_cache paged was tested with OpenVINO {', '.join(TESTED_RELEASES)}, this is "
            f"{release}; use engine.kv_cache stateful"
        )


def cache_shapes(compiled: ov.CompiledModel) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Element type and shape of one block, for every cache input of the compiled model by name.

    Raises `BackendError` when the plugin lays its blocks out in another size than ours.
    """
    shapes = {}
    for port in compiled.inputs:
        name = port.get_any_name()
        if name.startswith(("key_cache.", "value_cache.")):
            dimensions = list(port.partial_shape)[1:]
            shapes[name] = (port.get_element_type(), tuple(d.get_length() for d in dimensions))
    # Keys may carry rows of scales behind the tokens; values have a column for them.
    values = [shape for name, (_, shape) in shapes.items() if name.startswith("value_cache.")]
    if not values or any(shape[1] != BLOCK_SIZE for shape in values):
        raise BackendError(f"the plugin's blocks are {values[:1]}, not of {BLOCK_SIZE} tokens")
    return shapes


def block_bytes(compiled: ov.CompiledModel) -> int:
    """What one block takes in all cache tensors together, in bytes."""
    return sum(kind.size * math.prod(shape) for kind, shape in cache_shapes(compiled).values())
