"""OpenVINO's CPU properties, chosen without importing OpenVINO."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

# OpenVINO and oneDNN keep what they prepared for each shape, 5,000 and 1,024 entries of it: every
# new prompt length leaves 1 to 7 MB behind, most of it in OpenVINO's, whose entries hold buffers. A
# few of those are enough for a decode step and a prompt in turns. oneDNN's are code: some more of
# them spare a pass that is not as long as the last one 3 ms. See the README beside this file.
_SHAPES_KEPT = 16
_ONEDNN_SHAPES_KEPT = 64
_ONEDNN_CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """OpenVINO's CPU properties that matter here; what each costs stands in `backends/README.md`.

    `num_threads` 0 leaves the choice to OpenVINO; a precision of None leaves it to the plugin.
    """

    num_threads: int
    dynamic_quantization_group_size: int
    inference_precision: str | None
    kv_cache_precision: str | None
    cache_dir: Path | None

    def properties(self) -> dict[str, Any]:
        """As OpenVINO wants them."""
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": _SHAPES_KEPT,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.dynamic_quantization_group_size,
        }
        if self.num_threads:
            properties["INFERENCE_NUM_THREADS"] = self.num_threads
        if self.inference_precision:
            properties["INFERENCE_PRECISION_HINT"] = self.inference_precision
        if self.kv_cache_precision:
            properties["KV_CACHE_PRECISION"] = self.kv_cache_precision
        if self.cache_dir and _usable(self.cache_dir):
            properties["CACHE_DIR"] = str(self.cache_dir)
            # The blob then refers to the IR's weights instead of holding a second copy of them.
            properties["CACHE_MODE"] = "OPTIMIZE_SIZE"
        return properties


def _usable(cache_dir: Path) -> bool:
    """Whether a compile cache can be kept there; a missing one only costs start-up time."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("no compile cache: %s", error)
        return False
    if not os.access(cache_dir, os.W_OK):
        _log.warning("no compile cache: %s is not writable", cache_dir)
        return False
    return True


def default_cache_dir() -> Path | None:
    """The user's cache directory; None without a home, as for some system users."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "qwen-appliance"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "qwen-appliance" if home not in ("", "/", "~") else None


def bound_onednn_cache() -> None:
    """Bound what oneDNN keeps per shape; in this process, before anything is compiled.

    oneDNN reads the environment once, and OpenVINO has no property for it. A value set by the
    user stays.
    """
    os.environ.setdefault(_ONEDNN_CAPACITY, str(_ONEDNN_SHAPES_KEPT))
