"""Which files of a repository or directory make a model this project can convert."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from appliance.model_dir import MODEL_BIN, MODEL_XML
from provisioning.build_model.errors import UnsupportedModelError

CONFIG = "config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_SMALL_FILES = (CONFIG, "generation_config.json", *_TOKENIZER_FILES)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", WEIGHTS_INDEX)
_IR = (MODEL_XML, MODEL_BIN)


@dataclass(frozen=True, slots=True)
class Layout:
    """The names to fetch, all at the top level; see `Checkout` for `is_openvino`."""

    names: tuple[str, ...]
    is_openvino: bool


def wanted_files(names: Iterable[str], where: str) -> Layout:
    """Choose among `names`, the files at hand in `where` (which only the error text uses).

    An OpenVINO IR is preferred to safetensors when both lie there: it is ready. Raises
    `UnsupportedModelError` when configuration, weights or tokenizer are missing.
    """
    at_hand = sorted(set(names))
    if CONFIG not in at_hand:
        raise UnsupportedModelError(f"{where} has no {CONFIG}: it is no Hugging Face checkout")
    is_openvino = MODEL_XML in at_hand and MODEL_BIN in at_hand
    patterns = _IR if is_openvino else _WEIGHTS
    weights = [name for name in at_hand if _matches(name, patterns)]
    if not any(name.endswith((".safetensors", ".bin")) for name in weights):
        raise UnsupportedModelError(f"{where} {_no_weights(at_hand)}")
    if not any(name in at_hand for name in _TOKENIZERS):
        raise UnsupportedModelError(f"{where} has none of {', '.join(_TOKENIZERS)}")
    small = [name for name in _SMALL_FILES if name in at_hand]
    return Layout((*small, *weights), is_openvino)


def is_wanted(name: str) -> bool:
    """Whether a file of that name could be part of a model."""
    return name in _SMALL_FILES or _matches(name, _WEIGHTS + _IR)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _no_weights(at_hand: list[str]) -> str:
    if ggufs := [name for name in at_hand if name.endswith(".gguf")]:
        return f"holds GGUF files ({ggufs[0]}); download one and give it as gguf:PATH"
    if any(name.endswith((".bin", ".pt", ".pth")) for name in at_hand):
        return (
            "has its weights as PyTorch pickles only, which can run code when they are read; take "
            "a revision with model.safetensors"
        )
    return "has no model.safetensors"


def check_causal_lm(config: Any, where: str) -> None:
    """Raise `UnsupportedModelError` unless `config` (config.json, parsed) is a causal LM's."""
    architectures = config.get("architectures") if isinstance(config, dict) else None
    names = architectures if isinstance(architectures, list) else []
    if not any(str(name).endswith("ForCausalLM") for name in names):
        found = ", ".join(str(name) for name in names) or "none"
        raise UnsupportedModelError(
            f"{where} is not a causal language model: its {CONFIG} names the architecture {found}, "
            "expected one that ends in ForCausalLM, such as Qwen2ForCausalLM"
        )
