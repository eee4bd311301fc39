"""Fixtures that several packages share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import tiny_model


@pytest.fixture
def tiny_model_dir(tmp_path: Path) -> Path:
    """A model directory with everything but a model."""
    return tiny_model.make(tmp_path / "tiny")


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The embedded model's directory, which `tests/run.sh` builds; for tests marked `model`."""
    path = os.environ.get("QWEN_APPLIANCE_TEST_MODEL")
    if not path:
        pytest.skip("QWEN_APPLIANCE_TEST_MODEL names no model directory; use tests/run.sh")
    return Path(path)
