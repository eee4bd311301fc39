"""How text is cut before byte-level BPE, per `tokenizer.ggml.pre`.

llama.cpp names the rule of each model family and keeps the expressions in `src/llama-vocab.cpp`;
the ones below are the expressions of the families' own tokenizer.json. A name missing here is
refused: a wrong rule gives ids that are nearly right, which nobody notices until answers are poor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from provisioning.build_model.errors import UnsupportedModelError

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What a family needs besides vocabulary and merges.

    `build` makes the tokenizers object. `nfc`: text is put in Unicode form C first.
    `ignore_merges`: a word that is a token is taken whole. `add_bos`: the begin-of-sequence token
    is prepended unless the file says otherwise.
    """

    build: Callable[[], Any]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


def pre_tokenizer(name: str) -> PreTokenizer:
    """The rule called `name`; raises `UnsupportedModelError` for one that is not known."""
    if name not in _KNOWN:
        raise UnsupportedModelError(
            f"the GGUF's pre-tokenizer (tokenizer.ggml.pre) {name!r} is not known here; known: "
            f"{', '.join(sorted(_KNOWN))}. Take the model as hf: or dir: instead"
        )
    return _KNOWN[name]


def _gpt2() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _split(pattern: str) -> Callable[[], Any]:
    def build() -> Any:
        from tokenizers import Regex, pre_tokenizers

        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level]
        )

    return build


_QWEN2_RULE = PreTokenizer(_split(_QWEN2), nfc=True)
_LLAMA3_RULE = PreTokenizer(_split(_LLAMA3), ignore_merges=True, add_bos=True)
_KNOWN = {
    "gpt-2": PreTokenizer(_gpt2),
    "smollm": PreTokenizer(_smollm),
    "qwen2": _QWEN2_RULE,
    "deepseek-r1-qwen": _QWEN2_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
}
