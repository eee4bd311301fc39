from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provisioning.build_model.errors import UnsupportedModelError
from provisioning.build_model.sources import open_source
from provisioning.build_model.sources.gguf.tensor_types import TENSOR_TYPES
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.gguf_bytes import (
    Packed,
    f32,
    gguf_bytes,
    gguf_name,
    tiny_metadata,
    tiny_tensors,
)
from tests.provisioning.sources.recorded_progress import RecordedProgress

pytestmark = pytest.mark.build

HEADS = {"attn_q": 4, "attn_k": 2}


def family_tensors(architecture: str) -> dict[str, NDArray[np.float32]]:
    """The tiny model with the tensors of that family, under Hugging Face's names."""
    values = tiny_checkout.tensors()
    if architecture == "qwen2":
        return values
    values = {name: value for name, value in values.items() if not name.endswith("bias")}
    if architecture == "qwen3":
        random = np.random.default_rng(1)
        for layer in range(2):
            for name in ("q_norm", "k_norm"):
                key = f"model.layers.{layer}.self_attn.{name}.weight"
                values[key] = random.normal(1, 0.1, 8).astype(np.float32)
    return values


def llama_rows(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """llama.cpp's order of the rows of query and key: halves of a head interleaved."""
    module = name.split(".")[2] if name.startswith("blk.") else ""
    if module not in HEADS:
        return value
    heads = HEADS[module]
    halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)


def fetched(path: Path, content: bytes, work: Path, progress: RecordedProgress) -> Path:
    path.write_bytes(content)
    return open_source(f"gguf:{path}").fetch(work, progress).path


def loaded(checkout: Path) -> dict[str, NDArray[np.float32]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkout, dtype="float32")
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_tensor_arrives_under_its_name_and_in_its_order(
    tmp_path: Path, progress: RecordedProgress, architecture: str
) -> None:
    expected = family_tensors(architecture)
    tensors = {}
    for name, value in expected.items():
        name = gguf_name(name)
        tensors[name] = f32(llama_rows(name, value) if architecture == "llama" else value)
    content = gguf_bytes(tiny_metadata(architecture), tensors)
    checkout = fetched(tmp_path / "tiny.gguf", content, tmp_path / "work", progress)
    found = loaded(checkout)
    np.testing.assert_array_equal(found.pop("lm_head.weight"), found["model.embed_tokens.weight"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16), err_msg=name)
    [stage] = progress.stages
    assert stage.done == stage.expected == sum(v.size for v in expected.values()) * 2


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_weights_are_those_transformers_reads_from_the_same_file(
    tmp_path: Path, progress: RecordedProgress, architecture: str
) -> None:
    from transformers import AutoModelForCausalLM

    tensors = {gguf_name(name): f32(v) for name, v in family_tensors(architecture).items()}
    path = tmp_path / "tiny.gguf"
    content = gguf_bytes(tiny_metadata(architecture), tensors)
    ours = loaded(fetched(path, content, tmp_path / "work", progress))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype="float32")
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=5e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", TENSOR_TYPES.values(), ids=lambda kind: kind.name)
def test_every_type_of_the_table_is_dequantised(
    tmp_path: Path, progress: RecordedProgress, kind: Any
) -> None:
    """Random bits are a valid block of every type once the scales are sane; zeros always are."""
    shape = (64, 256)  # the embedding has 320 rows of 32, too narrow for blocks of 256
    metadata = tiny_metadata() | {"qwen2.embedding_length": 256, "qwen2.attention.head_count": 32}
    metadata |= {"qwen2.attention.head_count_kv": 8, "qwen2.feed_forward_length": 64}
    tensors = {}
    for name, packed in tiny_tensors().items():
        wide = {32: 256, 64: 64, 16: 64, 320: 320}
        tensors[name] = f32(np.zeros([wide[size] for size in packed.shape], np.float32))
    data = bytes(kind.num_bytes(shape[0] * shape[1]))
    tensors["blk.0.ffn_up.weight"] = Packed(kind.number, shape, data)
    content = gguf_bytes(metadata, tensors)
    checkout = fetched(tmp_path / "tiny.gguf", content, tmp_path / "work", progress)
    assert not loaded(checkout)["model.layers.0.mlp.up_proj.weight"].any()


def test_quantised_values_come_out_as_scale_times_integer(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    """Q8_0 by hand: a float16 scale and 32 signed bytes per block."""
    random = np.random.default_rng(2)
    scales = random.uniform(0.001, 0.1, (320, 1)).astype("<f2")
    integers = random.integers(-127, 128, (320, 32)).astype(np.int8)
    blocks = np.concatenate([scales.view(np.uint8), integers.view(np.uint8)], axis=1)
    tensors = tiny_tensors() | {"token_embd.weight": Packed(8, (320, 32), blocks.tobytes())}
    content = gguf_bytes(tiny_metadata(), tensors)
    checkout = fetched(tmp_path / "tiny.gguf", content, tmp_path / "work", progress)
    expected = (scales.astype(np.float32) * integers).astype(np.float16)
    np.testing.assert_array_equal(loaded(checkout)["model.embed_tokens.weight"], expected)


def test_an_untied_head_is_kept(tmp_path: Path, progress: RecordedProgress) -> None:
    head = np.random.default_rng(3).normal(0, 1, (320, 32)).astype(np.float32)
    content = gguf_bytes(tiny_metadata(), tiny_tensors() | {"output.weight": f32(head)})
    checkout = fetched(tmp_path / "tiny.gguf", content, tmp_path / "work", progress)
    np.testing.assert_array_equal(loaded(checkout)["lm_head.weight"], head.astype(np.float16))


def test_what_float16_cannot_hold_is_refused(tmp_path: Path, progress: RecordedProgress) -> None:
    huge = np.full(32, 70_000, np.float32)
    content = gguf_bytes(tiny_metadata(), tiny_tensors() | {"output_norm.weight": f32(huge)})
    with pytest.raises(UnsupportedModelError, match=r"output_norm.weight holds 70000"):
        fetched(tmp_path / "tiny.gguf", content, tmp_path / "work", progress)
    assert not (tmp_path / "work" / "model.safetensors").exists()


def test_weights_of_the_same_content_are_kept_and_others_replaced(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    path, work = tmp_path / "tiny.gguf", tmp_path / "work"
    fetched(path, gguf_bytes(tiny_metadata(), tiny_tensors()), work, progress)
    weights = work / "model.safetensors"
    before = weights.stat()
    open_source(f"gguf:{path}").fetch(work, progress)
    assert weights.stat().st_ino == before.st_ino
    assert progress.stages[1].done == progress.stages[1].expected
    other = {name: f32(np.ones(p.shape, np.float32)) for name, p in tiny_tensors().items()}
    fetched(path, gguf_bytes(tiny_metadata(), other), work, progress)
    assert weights.stat().st_ino != before.st_ino
    assert (loaded(work)["model.norm.weight"] == 1).all()


def test_identify_announces_at_least_what_is_written(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    path = tmp_path / "tiny.gguf"
    checkout = fetched(path, gguf_bytes(tiny_metadata(), tiny_tensors()), tmp_path / "w", progress)
    announced = open_source(f"gguf:{path}").identify().num_bytes
    assert sum(file.stat().st_size for file in checkout.iterdir()) <= announced
