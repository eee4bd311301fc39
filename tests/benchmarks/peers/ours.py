"""This project's own sides: each variant of the backend, in process and as a service."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.config.load import SETTINGS
from tests.benchmarks.harness.fleet import Launch, Side
from tests.benchmarks.peers.free_port import free_port
from tests.benchmarks.peers.inputs import Inputs

VARIANTS = ("stateful", "paged")
_KNOWN = {setting.key for setting in SETTINGS}
DRAFTS = "engine.prompt_lookup"
SAVED_PREFIXES_DIR = "engine.saved_prefixes_dir"
# As systemd/qwen-appliance.service sets it: large pages for the packed weights.
_AS_INSTALLED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def served(variant: str) -> str:
    """The side that runs `variant` as a service."""
    return f"{variant}, HTTP"


def reference(variant: str) -> str:
    """The side that tells margins of its logits."""
    return f"{variant}, reference"


def drafting(variant: str) -> str:
    """The side that guesses tokens from the prompt."""
    return f"{variant}, drafting"


def restarting(variant: str) -> str:
    """The side that saves its prefixes when it ends, and finds them when it starts."""
    return f"{variant}, restarting"


def can(setting: str) -> bool:
    """Whether this version has `setting`, and so what it stands for."""
    return setting in _KNOWN


def sides(inputs: Inputs, variants: Sequence[str]) -> list[Side]:
    """Every side of ours. Where a bar is not about drafts or saved prefixes, there are none."""
    made = []
    for variant in variants:
        plain = {**inputs.settings, "engine.kv_cache": variant, DRAFTS: "false"}
        saved = {**plain, SAVED_PREFIXES_DIR: str(inputs.saved_prefixes(variant))}
        made += [
            _in_process(inputs, variant, plain),
            _in_process(inputs, reference(variant), plain, "--margins"),
            _in_process(inputs, drafting(variant), {**plain, DRAFTS: "true"}),
            _in_process(inputs, restarting(variant), saved),
            _over_http(inputs, served(variant), plain),
        ]
    return made


def _in_process(inputs: Inputs, name: str, settings: Mapping[str, str], *options: str) -> Side:
    script = inputs.workers / "engine_worker.py"
    command = (sys.executable, script, "--model", inputs.model_dir, *_set(settings), *options)
    return Side(name, "in process", lambda: Launch(command, _AS_INSTALLED))


def _over_http(inputs: Inputs, name: str, settings: Mapping[str, str]) -> Side:
    def prepare() -> Launch:
        port = str(free_port())
        server: tuple[str | Path, ...] = (sys.executable, "-m", "appliance", "serve")
        server += ("--model", inputs.model_dir, "--port", port, *_set(settings))
        worker: tuple[str | Path, ...] = (sys.executable, inputs.workers / "http_worker.py")
        worker += ("--port", port, "--rows", "8", "--ready-path", "/health/ready")
        worker += ("--version-text", "this checkout")
        environment = {**_AS_INSTALLED, "PYTHONPATH": str(inputs.root)}
        return Launch((*worker, "--", *server), environment)

    return Side(name, "HTTP", prepare)


def _set(settings: Mapping[str, str]) -> list[str]:
    """As options of `serve`; those that this version does not have are left out."""
    known = {key: value for key, value in settings.items() if can(key)}
    return [part for key, value in known.items() for part in ("--set", f"{key}={value}")]
