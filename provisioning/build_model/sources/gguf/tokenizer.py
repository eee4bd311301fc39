"""Builds the tokenizer's files from GGUF metadata.

transformers' own conversion takes a sentencepiece class for every file of architecture `llama`
and then splits SmolLM2's text at spaces. The metadata says all that is needed, so tokenizer.json
is made from it directly: byte-level BPE from tokens and merges, the pre-tokenizer by its name,
special tokens by their type.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from provisioning.build_model.errors import SourceError, UnsupportedModelError
from provisioning.build_model.sources.gguf.container import GGUFFile
from provisioning.build_model.sources.gguf.pretokenizers import PreTokenizer, pre_tokenizer

# ggml's token types.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

# Texts that end a turn or a document in every family that has them. A GGUF names one end token
# only; an instruct model may as well emit the other one (Qwen: <|im_end|> and <|endoftext|>).
_END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")


def check_tokenizer(file: GGUFFile) -> None:
    """Raise `UnsupportedModelError` if `write_tokenizer` could not convert `file`'s tokenizer."""
    model = file.metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise UnsupportedModelError(
            f"{file.path}: its tokenizer (tokenizer.ggml.model) is {model!r}; only 'gpt2', "
            "byte-level BPE, can be converted. Take the model as hf: or dir: instead"
        )
    _rule(file)
    if "tokenizer.chat_template" not in file.metadata:
        raise UnsupportedModelError(
            f"{file.path} has no chat template (tokenizer.chat_template): it is a base model, not "
            "made for chat; take the -Instruct variant"
        )


def write_tokenizer(file: GGUFFile, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `directory`.

    Ids are the file's. Unused tokens (padding up to a round vocabulary) are left out: they are no
    text. Raises `SourceError` for metadata that contradicts itself, and what `check_tokenizer`
    raises.
    """
    check_tokenizer(file)
    _build(file).save(str(directory / "tokenizer.json"))
    config = json.dumps(_config(file), indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(config, encoding="utf-8")
    template = file.metadata["tokenizer.chat_template"]
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def eos_token_ids(file: GGUFFile) -> list[int]:
    """The ids that end an answer, the file's own first; `UnsupportedModelError` without any."""
    tokens, types = _tokens(file)
    control = {token: i for i, token in enumerate(tokens) if types[i] == _CONTROL}
    named = [token_id(file, "eos"), token_id(file, "eot"), *map(control.get, _END_TEXTS)]
    ids = list(dict.fromkeys(i for i in named if i is not None))
    if not ids:
        raise UnsupportedModelError(
            f"{file.path} names no token that ends an answer (tokenizer.ggml.eos_token_id)"
        )
    return ids


def token_id(file: GGUFFile, role: str) -> int | None:
    """`tokenizer.ggml.ROLE_token_id` or None; `SourceError` when no token has that id."""
    found: int | None = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
    if found is not None and not 0 <= found < len(_tokens(file)[0]):
        raise SourceError(f"{file.path}: {role} token id {found} is no token; the file is damaged")
    return found


def _rule(file: GGUFFile) -> PreTokenizer:
    return pre_tokenizer(str(file.metadata.get("tokenizer.ggml.pre", "")))


def _tokens(file: GGUFFile) -> tuple[list[str], list[int]]:
    """All tokens and their types, by id."""
    tokens: list[str] = file.metadata.get("tokenizer.ggml.tokens", [])
    types: list[int] = file.metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if not tokens or len(types) != len(tokens):
        raise SourceError(
            f"{file.path}: {len(tokens)} tokens with {len(types)} token types; the file is damaged"
        )
    return tokens, types


def _build(file: GGUFFile) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    rule = _rule(file)
    tokens, types = _tokens(file)
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != _UNUSED}
    merges = [merge.split(" ") for merge in file.metadata.get("tokenizer.ggml.merges", [])]
    if odd := next((pair for pair in merges if len(pair) != 2), None):
        raise SourceError(
            f"{file.path}: its tokenizer merges {odd!r}, no pair; the file is damaged"
        )
    try:
        model = BPE(
            vocab=vocab, merges=[(a, b) for a, b in merges], ignore_merges=rule.ignore_merges
        )
    except Exception as error:  # tokenizers raises nothing more precise
        raise SourceError(
            f"{file.path}: its tokenizer contradicts itself ({error}); the file is damaged"
        ) from error
    tokenizer = Tokenizer(model)
    if rule.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = rule.build()
    tokenizer.decoder = decoders.ByteLevel()
    # normalized=False: matched in the text as it came, before any normalisation.
    tokenizer.add_special_tokens(
        [
            AddedToken(t, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(t, normalized=False, special=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == _USER_DEFINED
        ]
    )
    tokenizer.post_processor = _post_processor(file, rule)
    return tokenizer


def _adds_bos(file: GGUFFile, rule: PreTokenizer) -> bool:
    return bool(file.metadata.get("tokenizer.ggml.add_bos_token", rule.add_bos))


def _post_processor(file: GGUFFile, rule: PreTokenizer) -> Any:
    from tokenizers import processors

    if not _adds_bos(file, rule):
        return processors.ByteLevel(trim_offsets=False)
    bos_id = token_id(file, "bos")
    if bos_id is None:
        raise SourceError(f"{file.path}: begins with a token it does not name; the file is damaged")
    bos = _tokens(file)[0][bos_id]
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )


def _config(file: GGUFFile) -> dict[str, Any]:
    metadata = file.metadata
    tokens, _ = _tokens(file)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata[f"{metadata['general.architecture']}.context_length"],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_bos(file, _rule(file)),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        if (found := token_id(file, key)) is not None:
            config[f"{name}_token"] = tokens[found]
    return config
