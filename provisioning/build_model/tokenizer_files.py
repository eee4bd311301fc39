"""What travels with the weights: tokenizer, chat template, end-of-answer ids, sampling defaults.

Reads a checkout's JSON files; no library of the build world is needed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.model_dir import CHAT_TEMPLATE, TOKENIZER
from provisioning.build_model.errors import UnsupportedModelError

GENERATION_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
HERMES_MARK = "<tool_call>"


@dataclass(frozen=True, slots=True)
class TextSide:
    """Everything of the manifest that is about text. `chat_template` is the Jinja text itself."""

    chat_template: str
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    generation_defaults: dict[str, float]
    tool_call_format: str | None


def read_text_side(checkout: Path) -> TextSide:
    """Gather `TextSide` from a checkout.

    Raises `UnsupportedModelError` when there is no tokenizer.json, when it is of a kind the run
    world cannot decode bytewise, when no chat template or no end-of-answer token can be found.
    """
    tokenizer = read_json(checkout / TOKENIZER)
    if not tokenizer:
        raise UnsupportedModelError(f"{checkout} has no {TOKENIZER}; save the tokenizer with it")
    check_tokenizer_kind(tokenizer)
    config = read_json(checkout / "config.json")
    generation = read_json(checkout / "generation_config.json")
    tokenizer_config = read_json(checkout / "tokenizer_config.json")
    ids = _token_ids(tokenizer)
    template = _chat_template(checkout, tokenizer_config)
    eos = _eos_token_ids(generation, config, _special(tokenizer_config, "eos_token", ids))
    if not eos:
        raise UnsupportedModelError(
            f"{checkout} names no end-of-answer token: neither generation_config.json nor "
            "config.json has eos_token_id, nor tokenizer_config.json an eos_token"
        )
    return TextSide(
        chat_template=template,
        eos_token_ids=eos,
        bos_token_id=_special(tokenizer_config, "bos_token", ids),
        generation_defaults=_generation_defaults(generation),
        tool_call_format="hermes" if HERMES_MARK in template else None,
    )


def write_text_files(checkout: Path, text: TextSide, directory: Path) -> None:
    """Put tokenizer.json and chat_template.jinja into `directory`."""
    shutil.copyfile(checkout / TOKENIZER, directory / TOKENIZER)
    (directory / CHAT_TEMPLATE).write_text(text.chat_template, encoding="utf-8")


def check_tokenizer_kind(tokenizer: dict[str, Any]) -> None:
    """Raise `UnsupportedModelError` unless every token stands for bytes.

    Streaming decodes token by token. That is only exact when a token is a string of bytes: in
    byte-level BPE always, in the sentencepiece style by its byte-fallback tokens.
    """
    model = tokenizer.get("model") or {}
    parts = _types(tokenizer.get("pre_tokenizer")) | _types(tokenizer.get("decoder"))
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    byte_level = kind == "BPE" and "ByteLevel" in parts
    byte_fallback = kind in ("BPE", "Unigram") and model.get("byte_fallback") is True
    if not (byte_level or byte_fallback):
        raise UnsupportedModelError(
            f"{TOKENIZER} is of kind {kind} ({', '.join(sorted(parts)) or 'no decoder'}); "
            "supported are byte-level BPE and sentencepiece with byte fallback"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty when the file does not exist."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UnsupportedModelError(f"{path} holds a {type(data).__name__}, expected an object")
    return data


def _types(part: Any) -> set[str]:
    """The `type`s in a tokenizer.json component, through sequences."""
    if isinstance(part, list):
        return set().union(*(_types(item) for item in part)) if part else set()
    if not isinstance(part, dict):
        return set()
    nested = _types(part.get("pretokenizers")) | _types(part.get("decoders"))
    return nested | ({part["type"]} if "type" in part else set())


def _token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocab: Any = tokenizer["model"].get("vocab", {})
    # BPE: {token: id}; Unigram: [[token, score], ...] in order of ids.
    listed = vocab if isinstance(vocab, dict) else {pair[0]: i for i, pair in enumerate(vocab)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    return {**listed, **added}


def _special(tokenizer_config: dict[str, Any], key: str, ids: dict[str, int]) -> int | None:
    """The id of the special token that `tokenizer_config.json` names under `key`, if any."""
    token = tokenizer_config.get(key)
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return None
    if text not in ids:
        raise UnsupportedModelError(f"tokenizer_config.json's {key} {text!r} is not in {TOKENIZER}")
    return ids[text]


def _eos_token_ids(
    generation: dict[str, Any], config: dict[str, Any], from_tokenizer: int | None
) -> tuple[int, ...]:
    """All ids that end an answer, those of generation_config.json first."""
    found: list[int] = []
    for value in (generation.get("eos_token_id"), config.get("eos_token_id"), from_tokenizer):
        found += value if isinstance(value, list) else [] if value is None else [value]
    return tuple(dict.fromkeys(found))


def _chat_template(checkout: Path, tokenizer_config: dict[str, Any]) -> str:
    path = checkout / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {item["name"]: item["template"] for item in template}
        template = named.get("default")
    if not isinstance(template, str):
        raise UnsupportedModelError(
            f"{checkout} has no chat template (neither {CHAT_TEMPLATE} nor one in "
            "tokenizer_config.json); a base model cannot chat, take its instruct version"
        )
    return template


def _generation_defaults(generation: dict[str, Any]) -> dict[str, float]:
    return {
        key: float(generation[key])
        for key in GENERATION_KEYS
        if isinstance(generation.get(key), (int, float))
    }
