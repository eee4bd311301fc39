"""llama.cpp with the same weights in Q8_0."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.benchmarks.harness.fleet import Launch, Side, UnavailableError
from tests.benchmarks.peers.inputs import Inputs, published
from tests.benchmarks.peers.venv import PeerVenv

NAME = "llama.cpp Q8_0"
_CONTEXT = 4096

# Run by the peer's own Python: its library requantises.
_QUANTIZE = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
params.allow_requantize = True
source, target = (name.encode() for name in sys.argv[1:])
sys.exit(llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)))
"""


def sides(inputs: Inputs) -> list[Side]:
    """One stream."""

    def prepare() -> Launch:
        if inputs.gguf is None:
            raise UnavailableError("needs the same weights as a GGUF file: GGUF=FILE")
        if not inputs.gguf.is_file():
            raise UnavailableError(f"GGUF={inputs.gguf}: there is no such file")
        python = PeerVenv(inputs.root, "llama").ensure()
        model = q8_0(inputs, python, inputs.gguf)
        script = inputs.workers / "llama_worker.py"
        return Launch((python, script, "--model", model, "--context", str(_CONTEXT)))

    return [Side(NAME, "in process", prepare)]


def q8_0(inputs: Inputs, python: Path, gguf: Path) -> Path:
    """The weights of `gguf` in Q8_0, made once. Raises `UnavailableError`."""
    place = inputs.converted(f"{gguf.stem}-{gguf.stat().st_size}.q8_0.gguf")
    if not place.exists():
        with published(place) as draft:
            done = subprocess.run(
                ["nice", python, "-c", _QUANTIZE, gguf, draft],
                capture_output=True,
                text=True,
                errors="replace",
            )
            if done.returncode:
                last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
                raise UnavailableError(f"{gguf.name} cannot be made Q8_0: {last[:160]}")
    return place
