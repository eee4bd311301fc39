"""What `engine.kv_cache_precision: auto` comes to."""

from __future__ import annotations

from pathlib import Path

from appliance.config import EngineConfig

BYTES_PER_VALUE = {"u8": 1, "f16": 2, "f32": 4}
"""Without the scales that 8 bits need."""


def kv_precision(config: EngineConfig, model_dir: Path) -> str:
    """How the backend of `config` stores keys and values: u8, f16 or f32.

    The paged variant chooses u8 itself. The stateful one leaves it to OpenVINO, which does what the
    IR asks for. Reads the IR if need be. Raises `ModelDirError`, `BackendError`.
    """
    if config.kv_cache_precision != "auto":
        return config.kv_cache_precision
    if config.kv_cache == "paged":
        return "u8"
    from appliance.backends.loader import kv_precision_of_ir

    return kv_precision_of_ir(model_dir)
