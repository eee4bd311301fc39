"""The model directory: what is read, and what is said of one that cannot be served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ModelDirError
from appliance.model_dir import (
    CHAT_TEMPLATE,
    MANIFEST,
    MODEL_BIN,
    REQUIRED_FILES,
    Manifest,
    Quality,
    read_manifest,
    sha256_of,
    verify_files,
)

Change = Callable[[dict[str, Any]], object]


def rewrite(directory: Path, change: Change) -> None:
    path = directory / MANIFEST
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def refused(directory: Path) -> str:
    with pytest.raises(ModelDirError) as caught:
        read_manifest(directory)
    assert caught.value.path == directory
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_what_is_written_is_read(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    (tiny_model_dir / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    assert read_manifest(tiny_model_dir) == manifest
    assert isinstance(manifest.eos_token_ids, tuple)
    assert manifest.golden.prompt_ids == tuple(b"hi")
    assert manifest.to_json().endswith("}\n")


def test_all_that_may_be_left_open_or_filled_is_read(tiny_model_dir: Path) -> None:
    def fill(data: dict[str, Any]) -> None:
        data["quality"] = {
            "num_prompts": 32,
            "num_positions": 900,
            "top1_agreement": 1,
            "mean_kl": 0.001,
            "min_top1_agreement": 0.9,
            "max_mean_kl": 0.1,
        }
        data["bos_token_id"] = 5
        data["generation_defaults"] = {"top_k": 20}
        del data["extra"]

    rewrite(tiny_model_dir, fill)
    manifest: Manifest = read_manifest(tiny_model_dir)
    assert manifest.quality == Quality(32, 900, 1.0, 0.001, 0.9, 0.1)
    assert type(manifest.quality.top1_agreement) is float
    assert type(manifest.generation_defaults["top_k"]) is float
    assert (manifest.bos_token_id, manifest.extra) == (5, {})


def test_text_that_is_not_ascii_stays_readable(tiny_model_dir: Path) -> None:
    rewrite(tiny_model_dir, lambda data: data["golden"].update(prompt="你好"))
    assert "你好" in read_manifest(tiny_model_dir).to_json()


def test_a_missing_directory_says_how_to_make_one(tmp_path: Path) -> None:
    assert "build-model.sh" in refused(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "does not exist" in refused(tmp_path / "file")


def test_a_checkout_says_how_it_becomes_a_model_directory(tmp_path: Path) -> None:
    assert f"--source dir:{tmp_path}" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"{} {}"])
def test_a_manifest_that_is_no_json(tiny_model_dir: Path, content: bytes) -> None:
    (tiny_model_dir / MANIFEST).write_bytes(content)
    assert "manifest.json cannot be read" in refused(tiny_model_dir)


def test_a_manifest_that_is_a_directory(tiny_model_dir: Path) -> None:
    (tiny_model_dir / MANIFEST).unlink()
    (tiny_model_dir / MANIFEST).mkdir()
    assert "manifest.json cannot be read" in refused(tiny_model_dir)


@pytest.mark.parametrize(("content", "found"), [("[]", "'list'"), ("{}", "None"), ("3", "'int'")])
def test_a_manifest_of_another_kind(tiny_model_dir: Path, content: str, found: str) -> None:
    (tiny_model_dir / MANIFEST).write_text(content, encoding="utf-8")
    assert f"format {found}" in refused(tiny_model_dir)


@pytest.mark.parametrize("format_", [2, "1", None, 0])
def test_another_format_is_named(tiny_model_dir: Path, format_: object) -> None:
    rewrite(tiny_model_dir, lambda data: data.update(format=format_))
    assert f"format {format_!r}, this version reads 1" in refused(tiny_model_dir)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.pop("golden"), "golden is missing"),
        (lambda data: data["architecture"].pop("vocab_size"), "architecture.vocab_size is missing"),
        (lambda data: data.update(colour="red"), "colour is not known"),
        (lambda data: data["weights"].update(bits=3), "weights.bits is not known"),
        (lambda data: data["architecture"].update(vocab_size="300"), "vocab_size is '300'"),
        (lambda data: data["architecture"].update(vocab_size=True), "vocab_size is True"),
        (lambda data: data["architecture"].update(vocab_size=300.0), "vocab_size is 300.0"),
        (lambda data: data["weights"].update(symmetric=1), "weights.symmetric is 1, expected bool"),
        (lambda data: data.update(eos_token_ids=[1, "2"]), "eos_token_ids[1] is '2'"),
        (lambda data: data.update(eos_token_ids=7), "eos_token_ids is 7"),
        (lambda data: data.update(source="dir:x"), "source is 'dir:x', expected an object"),
        (lambda data: data.update(quality=[]), "quality is [], expected an object"),
        (lambda data: data.update(name=None), "name is None, expected str"),
        (lambda data: data.update(generation_defaults={"top_p": "x"}), "generation_defaults.top_p"),
        (lambda data: data["files"].update(x={"sha256": "0"}), "files.x.size_bytes is missing"),
        (lambda data: data.update(files=[]), "files is []"),
        (lambda data: data.update(format=True), "format is True, expected int"),
    ],
)
def test_a_field_that_does_not_fit_is_named(
    tiny_model_dir: Path, change: Change, reason: str
) -> None:
    rewrite(tiny_model_dir, change)
    assert reason in refused(tiny_model_dir)


@pytest.mark.parametrize("checksums", [False, True])
def test_a_whole_directory_is_in_order(tiny_model_dir: Path, checksums: bool) -> None:
    verify_files(tiny_model_dir, read_manifest(tiny_model_dir), checksums=checksums)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_file_that_is_missing_from_disk_or_manifest_is_named(
    tiny_model_dir: Path, name: str
) -> None:
    manifest = read_manifest(tiny_model_dir)
    (tiny_model_dir / name).unlink()
    with pytest.raises(ModelDirError, match=f"{name} is missing"):
        verify_files(tiny_model_dir, manifest, checksums=False)
    rewrite(tiny_model_dir, lambda data: data["files"].pop(name))
    with pytest.raises(ModelDirError, match=f"lists no {name}"):
        verify_files(tiny_model_dir, read_manifest(tiny_model_dir), checksums=False)


def test_a_file_cut_short_is_named_with_both_sizes(tiny_model_dir: Path) -> None:
    (tiny_model_dir / MODEL_BIN).write_bytes(b"\0" * 9)
    with pytest.raises(ModelDirError, match=f"{MODEL_BIN} has 9 bytes, 16 expected"):
        verify_files(tiny_model_dir, read_manifest(tiny_model_dir), checksums=False)


def test_a_changed_byte_is_found_by_checksums_alone(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    path = tiny_model_dir / CHAT_TEMPLATE
    path.write_bytes(path.read_bytes().swapcase())
    verify_files(tiny_model_dir, manifest, checksums=False)
    with pytest.raises(ModelDirError, match=f"{CHAT_TEMPLATE} has another sha256"):
        verify_files(tiny_model_dir, manifest, checksums=True)


def test_a_sha256_of_more_than_one_piece(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.model
def test_a_built_directory_is_in_order(model_dir: Path) -> None:
    manifest = read_manifest(model_dir)
    verify_files(model_dir, manifest, checksums=True)
    assert manifest.eos_token_ids
    assert manifest.golden.prompt_ids and manifest.golden.greedy_ids
