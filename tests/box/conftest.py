"""One box for all tests of a session: booting it takes a second, starting the service several."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import fake_machine
from tests.box import image
from tests.box.box import Box
from tests.box.installed import Installed, install


@pytest.fixture(scope="session")
def box_image() -> Path:
    try:
        return image.provide()
    except image.NoBoxError as error:
        pytest.skip(f"no box: {error}")


@pytest.fixture(scope="session")
def n100_cpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a box sees of its CPUs: an N100's clock controls."""
    directory = tmp_path_factory.mktemp("n100")
    fake_machine.n100(directory / "tree")
    (directory / "tree" / fake_machine.CPUS).rename(directory / "cpu")
    return directory


@pytest.fixture(scope="session")
def installed(
    box_image: Path, n100_cpus: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """The service in a box, not started."""
    work = tmp_path_factory.mktemp("box")
    fill = partial(install, model_dir=model_dir)
    with Box(box_image, work, "n100", fill=fill, fake=n100_cpus) as box:
        yield Installed(box)


@pytest.fixture
def service(installed: Installed) -> Iterator[Installed]:
    """The same, as installed before and after each test."""
    installed.reset()
    yield installed
    installed.reset()
