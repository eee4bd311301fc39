"""For every test of the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_engine_thread_is_left() -> Iterator[None]:
    # A server that other tests share may have an engine of its own all the while.
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert "engine" not in [thread.name for thread in left if thread.is_alive()]
