"""ONNX Runtime with INT8 weights, through onnxruntime-genai and its own model builder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.benchmarks.harness.fleet import Launch, Side, UnavailableError
from tests.benchmarks.peers.checkpoint import checkpoint_of
from tests.benchmarks.peers.inputs import Inputs, published
from tests.benchmarks.peers.venv import PeerVenv

NAME = "ONNX Runtime int8"


def sides(inputs: Inputs) -> list[Side]:
    """One stream."""

    def prepare() -> Launch:
        checkpoint = checkpoint_of(inputs)
        python = PeerVenv(inputs.root, "onnx", torch=True).ensure()
        model = _int8(inputs, python, checkpoint)
        return Launch((python, inputs.workers / "onnx_worker.py", "--model", model))

    return [Side(NAME, "in process", prepare)]


def _int8(inputs: Inputs, python: Path, checkpoint: Path) -> Path:
    """What the builder makes of `checkpoint`: INT8 weights, activations in INT8 where its kernels
    can. Made once. Raises `UnavailableError`."""
    place = inputs.converted("onnx")
    if not place.is_dir():
        with published(place) as draft:
            command = [python, "-m", "onnxruntime_genai.models.builder"]
            command += ["-i", checkpoint, "-o", draft, "-c", inputs.cache_dir / "builder"]
            command += ["-p", "int8", "-e", "cpu", "--extra_options", "accuracy_level=4"]
            done = subprocess.run(
                ["nice", *command],
                capture_output=True,
                text=True,
                errors="replace",
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
            if done.returncode:
                last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
                raise UnavailableError(f"the model builder failed: {last[:160]}")
    return place
