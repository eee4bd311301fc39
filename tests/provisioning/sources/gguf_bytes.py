"""Writes GGUF files for tests, after the format's own description; no library."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.provisioning.sources import tiny_checkout

_ALIGNMENT = 32
_F32 = 0


@dataclass(frozen=True)
class Packed:
    """A tensor as it stands in the file: ggml type, shape (outermost first), bytes."""

    kind: int
    shape: tuple[int, ...]
    data: bytes


def f32(values: NDArray[np.float32]) -> Packed:
    return Packed(_F32, values.shape, values.astype("<f4").tobytes())


def gguf_bytes(
    metadata: dict[str, Any], tensors: dict[str, Packed], *, version: int = 3, order: str = "<"
) -> bytes:
    """The whole file."""
    out = b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += _string(key) + _typed(value)
    offset = 0
    for name, tensor in tensors.items():
        dimensions = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        out += _string(name) + struct.pack("<I", len(tensor.shape)) + dimensions
        out += struct.pack("<IQ", tensor.kind, offset)
        offset += _padded(len(tensor.data))
    out += b"\0" * (_padded(len(out)) - len(out))
    for tensor in tensors.values():
        out += tensor.data + b"\0" * (_padded(len(tensor.data)) - len(tensor.data))
    return out


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    if isinstance(value, list):
        kind, pack = (8, _string) if isinstance(value[0], str) else (5, _int32)
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(pack(item) for item in value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<II", 4, value)


def _int32(value: int) -> bytes:
    return struct.pack("<i", value)


def tiny_metadata(architecture: str = "qwen2", pre: str = "qwen2") -> dict[str, Any]:
    """The metadata llama.cpp's converter would write for the tiny model."""
    config = tiny_checkout.CONFIG
    tokens = tiny_checkout.vocabulary()
    padding = [f"[PAD{i}]" for i in range(len(tokens), config["vocab_size"])]
    return {
        "general.architecture": architecture,
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{architecture}.rope.freq_base": config["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *padding],
        "tokenizer.ggml.token_type": [1] * 256 + [3] * 3 + [1] * 3 + [5] * len(padding),
        "tokenizer.ggml.merges": list(tiny_checkout.MERGES),
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tiny_checkout.CHAT_TEMPLATE,
    }


_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_NAMES[module]}.{kind}"


def tiny_tensors() -> dict[str, Packed]:
    """The tiny Qwen2 model's tensors, unquantised."""
    return {gguf_name(name): f32(value) for name, value in tiny_checkout.tensors().items()}
