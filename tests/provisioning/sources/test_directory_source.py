from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from provisioning.build_model.errors import NoSuchModelError, SourceError, UnsupportedModelError
from provisioning.build_model.sources import open_source
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.recorded_progress import RecordedProgress


def sharded(checkout: Path, missing: str | None = None) -> None:
    """Split the weights of `checkout` in two shards with an index."""
    values = list(tiny_checkout.tensors().items())
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (checkout / "model.safetensors").unlink()
    weight_map = {}
    for name, part in zip(names, (values[:9], values[9:]), strict=True):
        if name != missing:
            (checkout / name).write_bytes(tiny_checkout.safetensors(dict(part)))
        weight_map |= {tensor: name for tensor, _ in part}
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (checkout / "model.safetensors.index.json").write_text(index)


def test_a_checkout_is_linked_and_left_alone(
    checkout: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    source = open_source(f"dir:{checkout}")
    identity = source.identify()
    assert (identity.name, identity.license) == ("Tiny-Qwen2", "apache-2.0")
    assert identity.linked_bytes >= (checkout / "model.safetensors").stat().st_size
    for _ in range(2):  # a second time over what is there already
        fetched = source.fetch(tmp_path / "work", progress)
    assert not fetched.is_openvino
    assert sorted(p.name for p in fetched.path.iterdir()) == sorted(tiny_checkout.WANTED)
    assert (fetched.path / "model.safetensors").read_bytes() == (
        checkout / "model.safetensors"
    ).read_bytes()
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before


def test_the_revision_follows_the_content_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    revision = open_source(f"dir:{checkout}").identify().revision
    (checkout / "README.md").write_text("other words")
    os.utime(checkout / "model.safetensors")
    moved = checkout.rename(tmp_path / "elsewhere")
    assert open_source(f"dir:{moved}").identify().revision == revision
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    changed = open_source(f"dir:{moved}").identify().revision
    assert changed != revision
    (moved / "chat_template.jinja").unlink()
    assert open_source(f"dir:{moved}").identify().revision not in (revision, changed)


def test_an_unchanged_file_is_not_read_again(checkout: Path) -> None:
    """Shown by changing a byte and putting the modification time back, which nobody does else."""
    first = open_source(f"dir:{checkout}").identify()
    weights = checkout / "model.safetensors"
    stat = weights.stat()
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_source(f"dir:{checkout}").identify() == first
    os.utime(weights)
    assert open_source(f"dir:{checkout}").identify() != first


def test_a_home_that_cannot_be_written_to_does_no_harm(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = open_source(f"dir:{checkout}").identify()
    assert open_source(f"dir:{checkout}").identify() == first


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"/x": [1, 2]}'])
def test_a_damaged_memory_of_checksums_is_replaced(
    checkout: Path, tmp_path: Path, content: str
) -> None:
    first = open_source(f"dir:{checkout}").identify()
    memory = tmp_path / "cache" / "qwen-appliance" / "checksums.json"
    memory.write_text(content)
    assert open_source(f"dir:{checkout}").identify() == first


def test_shards_are_taken_whole(checkout: Path, tmp_path: Path, progress: RecordedProgress) -> None:
    sharded(checkout)
    fetched = open_source(f"dir:{checkout}").fetch(tmp_path / "work", progress)
    assert len(list(fetched.path.glob("*.safetensors"))) == 2


def test_a_missing_shard_is_named(checkout: Path) -> None:
    sharded(checkout, missing="model-00002-of-00002.safetensors")
    with pytest.raises(SourceError, match="lacks model-00002-of-00002"):
        open_source(f"dir:{checkout}").identify()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"", "no whole safetensors"),
        (b"\xff" * 100, "no whole safetensors"),
        (b"\x02\0\0\0\0\0\0\0[]", "no whole safetensors"),
    ],
)
def test_weights_that_are_none_are_named(checkout: Path, content: bytes, text: str) -> None:
    (checkout / "model.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match=text):
        open_source(f"dir:{checkout}").identify()


def test_truncated_weights_are_named_with_both_sizes(checkout: Path) -> None:
    weights = checkout / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    expected = rf"truncated: {len(content) - 10} bytes, {len(content)} expected"
    with pytest.raises(SourceError, match=expected):
        open_source(f"dir:{checkout}").identify()


def test_an_openvino_ir_is_taken_as_it_is(
    checkout: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    (checkout / "openvino_model.xml").write_text("<net/>")
    (checkout / "openvino_model.bin").write_bytes(b"\1" * 64)
    source = open_source(f"dir:{checkout}")
    fetched = source.fetch(tmp_path / "work", progress)
    assert fetched.is_openvino
    names = {p.name for p in fetched.path.iterdir()}
    assert {"openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    before = source.identify().revision
    (checkout / "openvino_model.bin").write_bytes(b"\2" * 64)
    assert source.identify().revision != before


def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModelError, match="nowhere is not a directory"):
        open_source(f"dir:{tmp_path}/nowhere").identify()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["manifest.json", "openvino_model.xml"], "is a finished model directory already"),
        (["model.gguf", "config.json", "tokenizer.json"], r"gguf:PATH"),
        (["notes.txt"], r"no config\.json"),
    ],
)
def test_a_directory_of_another_kind_says_which(
    tmp_path: Path, names: list[str], text: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UnsupportedModelError, match=text):
        open_source(f"dir:{tmp_path}").identify()


@pytest.mark.parametrize("content", ['{"architectures": ["T5EncoderModel"]}', "{}", "[]", "null"])
def test_what_is_no_causal_language_model_is_refused(checkout: Path, content: str) -> None:
    (checkout / "config.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match="not a causal language model"):
        open_source(f"dir:{checkout}").identify()


def test_a_config_that_is_no_json_is_named(checkout: Path) -> None:
    (checkout / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json is not JSON"):
        open_source(f"dir:{checkout}").identify()


@pytest.mark.build
def test_an_older_tokenizer_is_converted_in_the_work_directory(
    checkout: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    from tokenizers import Tokenizer

    vocab = {token: i for i, token in enumerate(tiny_checkout.vocabulary())}
    (checkout / "tokenizer.json").unlink()
    (checkout / "vocab.json").write_text(json.dumps(vocab))
    (checkout / "merges.txt").write_text("#version: 0.2\n" + "\n".join(tiny_checkout.MERGES) + "\n")
    (checkout / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    fetched = open_source(f"dir:{checkout}").fetch(tmp_path / "work", progress)
    converted = Tokenizer.from_file(str(fetched.path / "tokenizer.json"))
    assert converted.encode(" the<|endoftext|>").ids == [261, 256]
    assert not (checkout / "tokenizer.json").exists()
    assert "converting the tokenizer" in progress.notes[0]


@pytest.mark.build
def test_a_tokenizer_nobody_can_convert_is_an_error(
    checkout: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    (checkout / "tokenizer.json").unlink()
    (checkout / "tokenizer_config.json").unlink()
    (checkout / "tokenizer.model").write_bytes(b"no sentencepiece model")
    with pytest.raises(UnsupportedModelError, match=r"cannot be converted to one"):
        open_source(f"dir:{checkout}").fetch(tmp_path / "work", progress)


@pytest.mark.build
def test_what_is_fetched_is_a_model_that_computes(
    checkout: Path, tmp_path: Path, progress: RecordedProgress
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    fetched = open_source(f"dir:{checkout}").fetch(tmp_path / "work", progress)
    model = AutoModelForCausalLM.from_pretrained(fetched.path)
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, 320)
