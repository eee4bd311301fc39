from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from provisioning.build_model.errors import SourceError, UnreachableError
from provisioning.build_model.sources import hub_answers, open_source
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.fake_hub import FakeHub, commit_of, git_blob
from tests.provisioning.sources.recorded_progress import RecordedProgress


@pytest.fixture
def cache(
    tmp_path: Path, checkout_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """huggingface_hub's cache with Tiny/Qwen2 in it, offline; no server anywhere."""
    repo = tmp_path / "hf-cache" / "models--Tiny--Qwen2"
    snapshot = repo / "snapshots" / commit_of("main")
    for name, content in checkout_files.items():
        is_lfs = name.endswith(".safetensors")
        digest = hashlib.sha256(content).hexdigest() if is_lfs else git_blob(content)
        blob, link = repo / "blobs" / digest, snapshot / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit_of("main"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return repo


@pytest.mark.parametrize("revision", ["", "@main", "@" + commit_of("main")])
def test_offline_a_cached_model_is_used(
    cache: Path, tmp_path: Path, progress: RecordedProgress, revision: str
) -> None:
    source = open_source("hf:Tiny/Qwen2" + revision)
    identity = source.identify()
    assert (identity.name, identity.revision) == ("Qwen2", commit_of("main"))
    assert identity.license == "apache-2.0"
    checkout = source.fetch(tmp_path / "work", progress)
    assert sorted(p.name for p in checkout.path.iterdir()) == sorted(tiny_checkout.WANTED)
    assert progress.stages[0].done == progress.stages[0].expected


def test_offline_a_model_that_is_not_cached_is_unreachable(cache: Path) -> None:
    with pytest.raises(UnreachableError, match=r"HF_HUB_OFFLINE is set and Tiny/Other@main"):
        open_source("hf:Tiny/Other").identify()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_blob_is_found(
    cache: Path, tmp_path: Path, progress: RecordedProgress, name: str
) -> None:
    blob = (cache / "snapshots" / commit_of("main") / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(SourceError, match="in the cache is damaged"):
        open_source("hf:Tiny/Qwen2").fetch(tmp_path / "work", progress)


@pytest.mark.parametrize("value", ["0", "", "no"])
def test_the_flag_must_be_on_to_count(
    cache: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    open_source("hf:Tiny/Qwen2").identify()
    assert hub.requests


def test_offline_nobody_is_asked(cache: Path, hub: FakeHub) -> None:
    open_source("hf:Tiny/Qwen2").identify()
    assert not hub_answers(1.0, "Tiny/Qwen2")
    assert not hub.requests


@pytest.mark.build
def test_what_huggingface_hub_downloads_is_found_offline(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves both fakes: the real client is content with this hub, and writes such a cache."""
    from huggingface_hub import snapshot_download

    cache_dir = tmp_path / "real-cache"
    snapshot_download("Tiny/Qwen2", endpoint=hub.url, cache_dir=cache_dir, token=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache_dir))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    source = open_source("hf:Tiny/Qwen2")
    assert source.identify().revision == commit_of("main")
    checkout = source.fetch(tmp_path / "work", progress)
    content = hub.repos["Tiny/Qwen2"].revisions["main"]["model.safetensors"]
    assert (checkout.path / "model.safetensors").read_bytes() == content
    assert not hub.requests
