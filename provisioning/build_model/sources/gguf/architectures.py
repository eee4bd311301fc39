"""What GGUF calls things, and what Hugging Face calls them: sizes and tensor names.

Three architectures are known: `llama` (SmolLM2 and others), `qwen2` (Qwen2.5) and `qwen3`. Their
decoder blocks differ in little: biases, norms of query and key, and the order of the rows of
llama's query and key weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provisioning.build_model.errors import SourceError, UnsupportedModelError
from provisioning.build_model.sources.gguf.container import GGUFFile
from provisioning.build_model.sources.gguf.tokenizer import eos_token_ids, token_id

_BLOCK_WEIGHTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_QKV = ("attn_q", "attn_k", "attn_v")
_SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family. `interleaved_rope`: rows of query and key are paired (see `weights.py`)."""

    model_type: str
    class_name: str
    qk_norms: bool = False
    qkv_biases: bool = False
    interleaved_rope: bool = False


_KNOWN = {
    "llama": Architecture("llama", "LlamaForCausalLM", interleaved_rope=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", qkv_biases=True),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", qk_norms=True),
}


def architecture(file: GGUFFile) -> Architecture:
    """The file's family; raises `UnsupportedModelError` for others and for scaled RoPE."""
    name = file.metadata.get("general.architecture")
    if name not in _KNOWN:
        raise UnsupportedModelError(
            f"{file.path}: its architecture (general.architecture) is {name!r}; known: "
            f"{', '.join(_KNOWN)}. Take the model as hf: or dir: instead"
        )
    scaling = file.metadata.get(f"{name}.rope.scaling.type", "none")
    scaled_tensor = next((t.name for t in file.tensors if t.name.startswith("rope_")), None)
    if scaling != "none" or scaled_tensor:
        raise UnsupportedModelError(
            f"{file.path} stretches its positions ({scaled_tensor or scaling}), which GGUF "
            "stores in a form that cannot be converted exactly; take it as hf: or dir: instead"
        )
    return _KNOWN[name]


def tensor_names(file: GGUFFile) -> dict[str, str]:
    """GGUF name -> Hugging Face name, for every tensor the model must have.

    Raises `SourceError` when the file lacks one of them and `UnsupportedModelError` when it holds
    one that has no place.
    """
    family = architecture(file)
    present = {tensor.name for tensor in file.tensors}
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    if "output.weight" in present:
        names["output.weight"] = "lm_head.weight"
    weights = _BLOCK_WEIGHTS | (_QK_NORMS if family.qk_norms else {})
    for layer in range(_size(file, "block_count")):
        source, target = f"blk.{layer}.", f"model.layers.{layer}."
        names |= {f"{source}{k}.weight": f"{target}{v}.weight" for k, v in weights.items()}
        if family.qkv_biases:
            names |= {f"{source}{k}.bias": f"{target}{weights[k]}.bias" for k in _QKV}
    if missing := sorted(names.keys() - present):
        raise SourceError(f"{file.path} lacks the tensor {missing[0]}; the file is damaged")
    if surplus := sorted(present - names.keys()):
        raise UnsupportedModelError(
            f"{file.path}: the tensor {surplus[0]} has no place in {family.class_name}"
        )
    return names


def model_config(file: GGUFFile) -> dict[str, Any]:
    """The content of config.json. Raises `SourceError` for a size the metadata lacks."""
    family = architecture(file)
    embedding = next(t for t in file.tensors if t.name == "token_embd.weight")
    hidden_size, num_heads = _size(file, "embedding_length"), _size(file, "attention.head_count")
    config = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        "torch_dtype": "float16",
        # The release whose form of this file this is; without one transformers suspects an old
        # Mistral tokenizer and warns of wrong tokens.
        "transformers_version": "4.57.0",
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": _size(file, "feed_forward_length"),
        "num_hidden_layers": _size(file, "block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _size(file, "attention.head_count_kv"),
        "head_dim": _optional(file, "attention.key_length", hidden_size // num_heads),
        "hidden_act": "silu",
        "max_position_embeddings": _size(file, "context_length"),
        "rms_norm_eps": _size(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": _optional(file, "rope.freq_base", 10000.0),
        "tie_word_embeddings": all(t.name != "output.weight" for t in file.tensors),
        "eos_token_id": eos_token_ids(file)[0],
    }
    if family.model_type != "qwen2":  # Qwen2 has them always and knows no such setting
        config["attention_bias"] = family.qkv_biases
    if (bos := token_id(file, "bos")) is not None:
        config["bos_token_id"] = bos
    return config


def generation_config(file: GGUFFile) -> dict[str, Any]:
    """The content of generation_config.json: token ids, and sampling where the file names it."""
    config: dict[str, Any] = {"eos_token_id": eos_token_ids(file)}
    for key, gguf_key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if (found := token_id(file, gguf_key)) is not None:
            config[key] = found
    for gguf_key, key in _SAMPLING.items():
        if (value := file.metadata.get(f"general.sampling.{gguf_key}")) is not None:
            config[key] = value
    return config


def _size(file: GGUFFile, key: str) -> Any:
    full_key = f"{file.metadata['general.architecture']}.{key}"
    if full_key not in file.metadata:
        raise SourceError(f"{file.path}: the metadata lacks {full_key}; the file is damaged")
    return file.metadata[full_key]


def _optional(file: GGUFFile, key: str, default: Any) -> Any:
    return file.metadata.get(f"{file.metadata['general.architecture']}.{key}", default)
