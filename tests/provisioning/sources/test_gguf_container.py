from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioning.build_model.errors import SourceError, UnsupportedModelError
from provisioning.build_model.sources import open_source
from provisioning.build_model.sources.gguf.container import read_gguf
from provisioning.build_model.sources.gguf.tensor_types import TENSOR_TYPES
from tests.provisioning.sources.gguf_bytes import Packed, gguf_bytes, tiny_metadata, tiny_tensors


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-model-Q4_K_M.gguf"
    path.write_bytes(gguf_bytes(tiny_metadata(), tiny_tensors()))
    return path


def rewritten(path: Path, metadata: dict[str, Any] | None = None, **tensors: Packed) -> Path:
    """The same file with some metadata or tensors replaced; None removes a key."""
    merged = tiny_metadata() | (metadata or {})
    kept = {key: value for key, value in merged.items() if value is not None}
    path.write_bytes(gguf_bytes(kept, tiny_tensors() | tensors))
    return path


def test_header_values_and_tensor_places_are_read(gguf: Path) -> None:
    file = read_gguf(gguf)
    assert file.metadata == {
        key: pytest.approx(value) if isinstance(value, float) else value
        for key, value in tiny_metadata().items()
    }
    content = gguf.read_bytes()
    for tensor in file.tensors:
        packed = tiny_tensors()[tensor.name]
        assert tensor.shape == packed.shape
        assert content[tensor.offset : tensor.offset + tensor.num_bytes] == packed.data


def test_identify_names_the_file_without_its_quantisation(gguf: Path) -> None:
    identity = open_source(f"gguf:{gguf}").identify()
    assert identity.name == "tiny-model"
    assert identity.license == "apache-2.0"
    assert identity.revision.startswith("sha256:")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", "SmolLM2-135M-Instruct"),
        ("qwen2.5-0.5b-instruct-q4_k_m", "qwen2.5-0.5b-instruct"),
        ("model-IQ4_XS", "model"),
        ("model.BF16", "model"),
        ("model-f16", "model"),
        ("plain", "plain"),
    ],
)
def test_names(gguf: Path, stem: str, name: str) -> None:
    renamed = gguf.rename(gguf.with_name(stem + ".gguf"))
    assert open_source(f"gguf:{renamed}").identify().name == name


def test_a_change_of_content_is_another_revision(gguf: Path) -> None:
    before = open_source(f"gguf:{gguf}").identify().revision
    content = bytearray(gguf.read_bytes())
    content[-1] ^= 1
    gguf.write_bytes(content)
    assert open_source(f"gguf:{gguf}").identify().revision != before


@pytest.mark.parametrize("lost", [1, 100, 100_000, -200, -20, -8])
def test_a_truncated_file_is_named_with_both_sizes(gguf: Path, lost: int) -> None:
    """Positive: bytes lost at the end; negative: only so many bytes are left."""
    content = gguf.read_bytes()
    cut = content[: len(content) - lost] if lost > 0 else content[:-lost]
    gguf.write_bytes(cut)
    with pytest.raises(SourceError, match=rf"truncated: it has {len(cut)} bytes"):
        open_source(f"gguf:{gguf}").identify()


def test_something_else_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match="is not a GGUF file"):
        open_source(f"gguf:{path}").identify()
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="is not a GGUF file"):
        open_source(f"gguf:{path}").identify()


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        open_source(f"gguf:{tmp_path}/none.gguf").identify()
    with pytest.raises(SourceError, match="Is a directory"):
        open_source(f"gguf:{tmp_path}").identify()


@pytest.mark.parametrize(
    ("version", "order", "text"), [(1, "<", "GGUF version 1"), (3, ">", "big-endian")]
)
def test_other_versions_and_byte_orders_are_refused(
    gguf: Path, version: int, order: str, text: str
) -> None:
    gguf.write_bytes(gguf_bytes({}, {}, version=version, order=order))
    with pytest.raises(UnsupportedModelError, match=text):
        read_gguf(gguf)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"general.architecture": "mamba"}, "architecture .* is 'mamba'; known: llama, qwen2"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"qwen2.rope.scaling.type": "yarn"}, "stretches its positions"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model.* is 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, r"'tekken' is not known here; known: .*qwen2"),
        ({"tokenizer.ggml.pre": None}, r"\(tokenizer.ggml.pre\) '' is not known"),
        ({"tokenizer.chat_template": None}, "no chat template"),
    ],
)
def test_what_cannot_be_converted_is_said_before_converting(
    gguf: Path, metadata: dict[str, Any], text: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        open_source(f"gguf:{rewritten(gguf, metadata)}").identify()


def test_missing_sizes_and_tensors_are_damage(gguf: Path) -> None:
    with pytest.raises(SourceError, match=r"lacks qwen2\.block_count"):
        open_source(f"gguf:{rewritten(gguf, {'qwen2.block_count': None})}").identify()
    with pytest.raises(SourceError, match=r"lacks the tensor blk\.2\."):
        open_source(f"gguf:{rewritten(gguf, {'qwen2.block_count': 3})}").identify()


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"qwen2.context_length": None}, r"lacks qwen2\.context_length"),
        ({"tokenizer.ggml.eos_token_id": 320}, "eos token id 320 is no token"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "320 tokens with 2 token types"),
        ({"tokenizer.ggml.tokens": None}, "0 tokens"),
    ],
)
def test_metadata_that_does_not_fit_is_damage(
    gguf: Path, metadata: dict[str, Any], text: str
) -> None:
    with pytest.raises(SourceError, match=text):
        open_source(f"gguf:{rewritten(gguf, metadata)}").identify()


def test_a_file_that_never_ends_an_answer_is_refused(gguf: Path) -> None:
    tokens = [f"t{i}" for i in range(320)]
    metadata = {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.tokens": tokens}
    with pytest.raises(UnsupportedModelError, match="no token that ends an answer"):
        open_source(f"gguf:{rewritten(gguf, metadata)}").identify()


def test_a_tensor_without_a_place_is_refused(gguf: Path) -> None:
    surplus = {"blk.0.ffn_gate_exps.weight": Packed(0, (8,), bytes(32))}
    with pytest.raises(UnsupportedModelError, match=r"ffn_gate_exps.*has no place in Qwen2"):
        open_source(f"gguf:{rewritten(gguf, **surplus)}").identify()


def test_an_unknown_tensor_type_is_named_with_the_known_ones(gguf: Path) -> None:
    odd = {"token_embd.weight": Packed(39, (320, 32), bytes(320 * 17))}
    with pytest.raises(UnsupportedModelError, match=r"token_embd\.weight has ggml type 39.*Q4_K"):
        open_source(f"gguf:{rewritten(gguf, **odd)}").identify()


@pytest.mark.build
def test_the_table_of_types_is_ggmls() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for number, kind in TENSOR_TYPES.items():
        theirs = GGMLQuantizationType(number)
        assert (kind.name, (kind.block_size, kind.block_bytes)) == (
            theirs.name,
            GGML_QUANT_SIZES[theirs],
        )
