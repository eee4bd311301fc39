"""A box as it should be, for tests that then make one thing wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.model_dir import Quality, read_manifest
from tests import tiny_model
from tests.appliance.doctor import fake_box
from tests.appliance.doctor.fake_box import FakeBox
from tests.appliance.doctor.manifests import change

GOOD = Quality(40, 1133, 0.96, 0.005, 0.93, 0.02)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model directory that passed the quality gate."""
    directory = tiny_model.make(tmp_path / "models" / "tiny")
    change(directory, quality=GOOD)
    assert read_manifest(directory).quality == GOOD
    return directory


@pytest.fixture
def n100(tmp_path: Path, model: Path) -> FakeBox:
    """With a model; nobody is asked for its health."""
    box = fake_box.n100(tmp_path)
    box.settings = {"model.dir": str(model), "server.port": "0"}
    return box


@pytest.fixture
def virtual(tmp_path: Path, model: Path) -> FakeBox:
    box = fake_box.virtual(tmp_path)
    box.settings = {"model.dir": str(model), "server.port": "0"}
    return box
