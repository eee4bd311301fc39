"""One server for all tests that do not change it for good; every test leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import tiny_model
from tests.server import Served


@pytest.fixture(scope="package")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tiny_model.make(tmp_path_factory.mktemp("api") / "tiny")) as served:
        yield served


@pytest.fixture
def served(_server: Served) -> Iterator[Served]:
    """A server that runs, knows no prefix, and must have nothing open when the test is over."""
    _server.reset()
    _server.answer("hello")
    yield _server
    _server.check_no_leak()
