"""Sides for a fleet that are scripted workers."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.benchmarks.harness.fleet import Launch, Side

SCRIPT = Path(__file__).with_name("scripted_worker.py")


def scripted(name: str, *options: str) -> Side:
    """A side that runs `scripted_worker.py` with these options."""
    return Side(name, "in process", lambda: Launch((sys.executable, SCRIPT, *options)))
