from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.fake_hub import FakeHub, HubRepo
from tests.provisioning.sources.fake_modelscope import FakeModelScope, ModelScopeRepo
from tests.provisioning.sources.recorded_progress import RecordedProgress

_PREFIXES = ("HF_", "HUGGING", "TRANSFORMERS_", "MODELSCOPE_", "PIP_")


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, cache, token or proxy of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture(scope="session")
def checkout_files() -> dict[str, bytes]:
    return tiny_checkout.checkout_files()


@pytest.fixture
def checkout(tmp_path: Path, checkout_files: dict[str, bytes]) -> Path:
    """The tiny model on disk."""
    directory = tmp_path / "Tiny-Qwen2"
    for name, content in checkout_files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@pytest.fixture
def hub(checkout_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the tiny model as Tiny/Qwen2, in force through HF_ENDPOINT."""
    with FakeHub() as server:
        server.repos["Tiny/Qwen2"] = HubRepo({"main": dict(checkout_files)})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def modelscope(
    checkout_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeModelScope]:
    """A ModelScope with the same model, in force through MODELSCOPE_DOMAIN."""
    with FakeModelScope() as server:
        server.repos["Tiny/Qwen2"] = ModelScopeRepo({"master": dict(checkout_files)})
        monkeypatch.setenv("MODELSCOPE_DOMAIN", server.url)
        yield server


@pytest.fixture(scope="session")
def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
