"""One server for all tests that do not change it for good; every test leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import tiny_model
from tests.fakes import FakeRunner
from tests.server import Served


@pytest.fixture(scope="package")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tiny_model.make(tmp_path_factory.mktemp("api") / "tiny")) as served:
        yield served


@pytest.fixture(scope="package")
def _roomy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tiny_model.make(tmp_path_factory.mktemp("roomy") / "tiny")
    with Served(directory, FakeRunner(max_model_len=2048)) as served:
        yield served


@pytest.fixture
def served(_server: Served) -> Iterator[Served]:
    """A server that runs, knows no prefix, and must have nothing open when the test is over."""
    yield from _fresh(_server)


@pytest.fixture
def roomy_server(_roomy_server: Served) -> Iterator[Served]:
    """The same with room for schemas, which this tokenizer writes in bytes."""
    yield from _fresh(_roomy_server)


def _fresh(server: Served) -> Iterator[Served]:
    server.reset()
    server.answer("hello")
    yield server
    server.check_no_leak()
