"""What a build finds out before it downloads anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.build_model.build import Order, build
from provisioning.build_model.errors import DiskError
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.fake_hub import FakeHub, HubRepo
from tests.provisioning.sources.recorded_progress import RecordedProgress

pytestmark = pytest.mark.build

PETABYTE = 10**15
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that lists the weights of Tiny/Qwen2 as a petabyte."""
    files = tiny_checkout.checkout_files()
    siblings: list[dict[str, object]] = [
        {"rfilename": name, "size": len(content), "blobId": "0" * 40}
        for name, content in files.items()
    ]
    for entry in siblings:
        if entry["rfilename"] == WEIGHTS:
            entry |= {"size": PETABYTE, "lfs": {"sha256": "0" * 64, "size": PETABYTE}}
    with FakeHub() as server:
        server.repos["Tiny/Qwen2"] = HubRepo({"main": files}, extra={"siblings": siblings})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


def refusal(out: Path) -> str:
    """The text with which a build of the hub's model into `out` is refused."""
    progress = RecordedProgress()
    with pytest.raises(DiskError) as caught:
        build(Order("hf:Tiny/Qwen2", out, "int8"), progress)
    assert progress.stages == []
    return str(caught.value)


def downloads(hub: FakeHub) -> list[str]:
    """Names of the files that were asked for."""
    return [path.rsplit("/", 1)[1] for path in hub.paths() if "/resolve/" in path or "cdn" in path]


def test_a_disk_that_is_too_small(hub: FakeHub, tmp_path: Path) -> None:
    text = refusal(tmp_path / "models" / "tiny")
    # Download, float export and half of it as the IR.
    assert "building Qwen2 needs 2500001." in text and "GB are free" in text
    assert downloads(hub) == ["config.json"]
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "no place for files"])
def test_an_output_that_cannot_be_written(hub: FakeHub, tmp_path: Path, kind: str) -> None:
    parent = tmp_path / "taken" if kind == "file" else Path("/proc/nowhere")
    if kind == "file":
        parent.write_text("somebody's")
    assert f"cannot write into {parent}" in refusal(parent / "model")
    assert downloads(hub) == ["config.json"]
