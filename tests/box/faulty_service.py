"""`qwen-appliance serve` with an engine that hangs in the middle of a pass, or takes all memory.

While the file `BLOCKED` is there, passes wait; the file `GREEDY` is taken away by the pass that
then takes memory without end.

It stands in no package of the service: a test puts it into the unit of a box.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.backends.base import Backend, Chunk, ModelRunner
from appliance.backends.create import create_backend
from appliance.config import Config
from appliance.model_dir import read_manifest

BLOCKED = Path("/var/lib/qwen-appliance/kv/block-the-engine")
GREEDY = Path("/var/lib/qwen-appliance/kv/take-all-memory")
_MEBIBYTE = 1 << 20


class FaultyRunner:
    """Any runner, with the faults of this file."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def forward(self, chunks: Sequence[Chunk]) -> object:
        while BLOCKED.exists():
            time.sleep(0.05)
        if GREEDY.exists():
            GREEDY.unlink()
            taken = []
            while True:
                taken.append(bytearray(os.urandom(_MEBIBYTE) * 16))
        return self._runner.forward(chunks)


def serve(config: Config) -> int:
    import appliance.serve as service

    assert config.model.dir is not None
    manifest = read_manifest(config.model.dir)
    backend = create_backend(config.engine, config.model.dir, manifest)
    faulty = Backend(backend.kv, FaultyRunner(backend.runner), backend.description)
    return service.serve(config, faulty)


if __name__ == "__main__":
    import argparse

    from appliance.config import add_arguments, load_from_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    sys.exit(serve(load_from_arguments(parser.parse_args(), os.environ).config))
