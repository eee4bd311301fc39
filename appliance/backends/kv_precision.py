"""What `engine.kv_cache_precision: auto` comes to."""

from __future__ import annotations

from typing import Literal

from appliance.config import EngineConfig

KVPrecision = Literal["u8", "f16", "f32"]

BYTES_PER_VALUE: dict[KVPrecision, int] = {"u8": 1, "f16": 2, "f32": 4}
"""Without the scales that 8 bits need."""


def kv_precision(config: EngineConfig) -> KVPrecision:
    """How the backend of `config` stores the keys and values that it computes with.

    Unless configured, 8 bit for paged attention, and 16 for the stateful one, where 8 bit make
    several tokens far into a text a third slower; see the README beside this file.
    """
    if config.kv_cache_precision != "auto":
        return config.kv_cache_precision
    return "u8" if config.kv_cache == "paged" else "f16"


def copy_precision(config: EngineConfig) -> KVPrecision:
    """How the stateful variant keeps its copies of known texts: as compact as can be, unless
    configured. They are filled into rows and not computed with."""
    return "u8" if config.kv_cache_precision == "auto" else config.kv_cache_precision
