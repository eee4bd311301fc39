"""Memory that the forward pass keeps: it must not grow with every new shape.

OpenVINO and oneDNN keep what they prepared for each shape they saw. Left alone, each new prompt
length of a 0.5B model cost 1 to 7 MB that never came back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: what other tests compiled must not hide the growth, nor bound it.
SCRIPT = """
import sys
from pathlib import Path
from appliance.backends.base import Chunk
from appliance.backends.create import create_backend
from appliance.config import EngineConfig
from appliance.model_dir import read_manifest

model_dir, cache_dir = Path(sys.argv[1]), Path(sys.argv[2])
config = EngineConfig(compile_cache_dir=cache_dir)
backend = create_backend(config, model_dir, read_manifest(model_dir))

def anonymous_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000

def prefill(num_tokens):
    token_ids = tuple(range(num_tokens))
    slot = backend.kv.allocate(token_ids).slot
    backend.kv.reserve(slot, num_tokens)
    backend.runner.forward([Chunk(slot, token_ids, 0, 1)])
    backend.kv.free(slot, keep_prefix=False)

for num_tokens in (20, 400, *range(100, 400, 10)):
    prefill(num_tokens)
before = anonymous_mb()
for num_tokens in range(101, 401, 6):
    prefill(num_tokens)
print(anonymous_mb() - before)
"""


@pytest.mark.model
def test_new_prompt_lengths_leave_nothing_behind(model_dir: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ONEDNN_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model_dir), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        cwd=Path(__file__).resolve().parents[3],
    )
    assert float(done.stdout) < 12, "MB for 50 new lengths; 60 and more without bounds"
