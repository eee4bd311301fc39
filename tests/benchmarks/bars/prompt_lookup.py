"""Tokens guessed from the prompt: tokens per second with them, in those without. `lookup.py` beside
this folder measures; here it becomes rows."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from appliance.errors import ApplianceError
from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.lab import Lab

_MODULE = "tests.benchmarks.lookup"
_BARS = {"extract": 1.5, "summarise": 1.5, "edit": 1.5, "chat": 0.98}
_PROMPTS = 20
_MAX_TOKENS = 64


def measure(lab: Lab) -> list[Row]:
    """A row per set of prompts."""
    found: dict[str, dict[str, Comparison]] = {name: {} for name in _BARS}
    reason = "tests/benchmarks/lookup.py is not there"
    if importlib.util.find_spec(_MODULE) is not None:
        lookup = importlib.import_module(_MODULE)
        reason = ""
        for variant in lab.variants:
            try:
                results = _measured(lab, lookup, variant)
            except ApplianceError as error:
                reason = str(error)
                continue
            for result in results:
                if result.name in found:
                    speeds = (result.tokens_per_s,), (result.tokens_per_s_without,)
                    found[result.name][variant] = Comparison(*speeds)
    return [_row(lab, name, found[name], reason) for name in _BARS]


def _measured(lab: Lab, lookup: ModuleType, variant: str) -> list[Any]:
    results: list[Any] = lookup.measure(
        lab.model_dir,
        kv_cache=variant,
        num_prompts=lab.repeats(_PROMPTS),
        max_tokens=_MAX_TOKENS,
    )
    return results


def _row(lab: Lab, name: str, ours: dict[str, Comparison], reason: str) -> Row:
    missing = {variant: reason for variant in lab.variants if variant not in ours}
    bar, limit = f"prompt lookup, {name}", Limit(">=", _BARS[name])
    return Row(bar, "tokens/s", limit, "no drafts", ours, missing)
