"""What `engine.kv_cache_precision: auto` comes to."""

from __future__ import annotations

from typing import Literal

from appliance.config import EngineConfig

KVPrecision = Literal["u8", "f16", "f32"]

BYTES_PER_VALUE: dict[KVPrecision, int] = {"u8": 1, "f16": 2, "f32": 4}
"""Without the scales that 8 bits need."""


def kv_precision(config: EngineConfig) -> KVPrecision:
    """How the backend of `config` stores keys and values.

    8 bit unless configured: OpenVINO's own choice for paged attention is 16 bit on some CPUs, and
    an IR from optimum-intel asks for 16 bit: twice the memory, and no faster.
    """
    return "u8" if config.kv_cache_precision == "auto" else config.kv_cache_precision
