"""The Hugging Face checkout that some peers need."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.harness.fleet import UnavailableError
from tests.benchmarks.peers.inputs import Inputs


def checkpoint_of(inputs: Inputs) -> Path:
    """The checkout's directory. Raises `UnavailableError` when none was given or it is none."""
    if inputs.checkpoint is None:
        raise UnavailableError("needs the same weights as a Hugging Face checkout: CHECKPOINT=DIR")
    if not (inputs.checkpoint / "config.json").is_file():
        raise UnavailableError(f"CHECKPOINT={inputs.checkpoint} has no config.json")
    return inputs.checkpoint.absolute()
