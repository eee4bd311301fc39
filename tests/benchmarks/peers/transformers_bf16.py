"""Transformers in bfloat16, where most people begin."""

from __future__ import annotations

from tests.benchmarks.harness.fleet import Launch, Side
from tests.benchmarks.peers.checkpoint import checkpoint_of
from tests.benchmarks.peers.inputs import Inputs
from tests.benchmarks.peers.venv import PeerVenv

NAME = "Transformers bf16"


def sides(inputs: Inputs) -> list[Side]:
    """One stream."""

    def prepare() -> Launch:
        checkpoint = checkpoint_of(inputs)
        python = PeerVenv(inputs.root, "transformers", torch=True).ensure()
        script = inputs.workers / "transformers_worker.py"
        return Launch((python, script, "--model", checkpoint), {"HF_HUB_OFFLINE": "1"})

    return [Side(NAME, "in process", prepare)]
