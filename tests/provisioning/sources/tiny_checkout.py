"""A real, very small Qwen2 model with random weights, as a repository of files."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "torch_dtype": "float32",
    "transformers_version": "4.57.0",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 258,
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


def tensors(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the model under Hugging Face's names."""
    random = np.random.default_rng(seed)
    hidden, ffn, kv = 32, 64, 16
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (320, hidden)}
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (rows, hidden)
            shapes[f"{prefix}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{prefix}mlp.gate_proj.weight"] = (ffn, hidden)
        shapes[f"{prefix}mlp.up_proj.weight"] = (ffn, hidden)
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, ffn)
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors(values: dict[str, NDArray[np.float32]]) -> bytes:
    """The tensors as a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in values.items():
        end = offset + value.nbytes
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in values.values())


def vocabulary() -> list[str]:
    """Byte-level alphabet, special tokens from 256, merged ones from 259; above 261 unused rows."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS, *merged]


def tokenizer() -> Tokenizer:
    merges = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    model = BPE(vocab={token: i for i, token in enumerate(vocabulary())}, merges=merges)
    built = Tokenizer(model)
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(list(SPECIAL_TOKENS))
    return built


def checkout_files() -> dict[str, bytes]:
    """A repository as people publish it, with files that are not wanted."""
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    generation = {"eos_token_id": [258, 256], "temperature": 0.7}
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
        "config.json": json.dumps(CONFIG, indent=2).encode(),
        "generation_config.json": json.dumps(generation).encode(),
        "tokenizer.json": tokenizer().to_str().encode(),
        "tokenizer_config.json": json.dumps(tokenizer_config).encode(),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        "model.safetensors": safetensors(tensors()),
        "pytorch_model.bin": b"a pickle nobody should read",
        "onnx/model.onnx": b"a form nobody here reads",
    }


WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
)
