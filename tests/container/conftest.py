"""One image for all tests of a session, and one with the model in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.image import NoBoxError
from tests.container.built import Builder
from tests.container.podman import NoPodmanError, Podman


@pytest.fixture(scope="session")
def home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "qwen-appliance-tests" / "containers"


@pytest.fixture(scope="session")
def podman(home: Path) -> Iterator[Podman]:
    try:
        podman = Podman(home)
    except NoPodmanError as error:
        pytest.skip(f"no containers: {error}")
    yield podman
    podman.remove_cgroups()


@pytest.fixture(scope="session")
def builder(podman: Podman, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(podman, home, tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="session")
def image(builder: Builder) -> str:
    """The image without a model."""
    try:
        return builder.image()
    except NoBoxError as error:
        pytest.skip(f"no containers: {error}")


@pytest.fixture(scope="session")
def image_with_model(image: str, builder: Builder, model_dir: Path) -> str:
    """The same with the embedded model in it."""
    return builder.image(model_dir)


@pytest.fixture
def volume(podman: Podman) -> Iterator[str]:
    """What `-v` has to name for /data; empty, and removed after the test."""
    name = podman("volume", "create").stdout.strip()
    yield name
    podman("volume", "rm", "-f", name)
