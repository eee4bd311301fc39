"""Text to token ids, and each token id to the bytes it stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from appliance.errors import ModelDirError
from appliance.model_dir import TOKENIZER, Manifest

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer:
    """The model's `tokenizer.json`. Encoding is thread-safe.

    Raises `ModelDirError` when the file is missing, is none, or works in a way whose bytes are not
    known here (neither byte-level BPE nor pieces with byte fallback). `special_ids` are tokens that
    stand for no text.
    """

    def __init__(self, model_dir: Path) -> None:
        path = model_dir / TOKENIZER
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        # tokenizers raises bare Exception for whatever is wrong with the file.
        except Exception as error:
            raise ModelDirError(model_dir, f"{TOKENIZER} cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._added: dict[int, bytes] = {i: t.content.encode() for i, t in added.items()}
        self._piece_bytes = _piece_bytes(self._tokenizer, model_dir)
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
        """Token ids of `text`. Special tokens written out in it are recognised as such.

        `add_special_tokens` puts the model's own beginning in front; a chat template has it
        already.
        """
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def token_bytes(self, token_id: int) -> bytes:
        """What `token_id` adds to a text, in UTF-8; possibly a part of a character.

        Empty for special tokens and for ids of the vocabulary's padding.
        """
        known = self._bytes.get(token_id)
        if known is None:
            special = token_id in self.special_ids
            known = self._bytes[token_id] = b"" if special else self.written_out(token_id)
        return known

    def written_out(self, token_id: int) -> bytes:
        """As `token_bytes`, but a special token's name too; nothing is remembered of it."""
        if token_id in self._added:
            return self._added[token_id]
        piece: str | None = self._tokenizer.id_to_token(token_id)
        return b"" if piece is None else self._piece_bytes(piece)

    def special_tokens(self, manifest: Manifest) -> dict[str, str]:
        """`bos_token` and `eos_token` written out, as chat templates use them."""
        ids = {
            "bos_token": manifest.bos_token_id,
            "eos_token": next(iter(manifest.eos_token_ids), None),
        }
        tokens = {
            name: self._tokenizer.id_to_token(token_id)
            for name, token_id in ids.items()
            if token_id is not None
        }
        return {name: token for name, token in tokens.items() if token is not None}


def _piece_bytes(tokenizer: _Tokenizer, model_dir: Path) -> Callable[[str], bytes]:
    """How this tokenizer's vocabulary writes bytes, judged by its decoder."""
    # The decoder's own JSON: that of the whole file takes a quarter of a second to read again.
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    kinds = {decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", ()))}
    if "ByteLevel" in kinds:
        return _byte_level_bytes
    if "ByteFallback" in kinds:
        return _byte_fallback_bytes
    raise ModelDirError(
        model_dir,
        f"{TOKENIZER} has the decoder {decoder.get('type')}; byte-level BPE (Qwen, Llama 3, "
        "SmolLM2) and byte fallback (Llama 2, Gemma) can be streamed",
    )


def _byte_level_bytes(piece: str) -> bytes:
    # A few vocabularies hold entries written as they are; those characters stand for themselves.
    known = _BYTE_OF_CHARACTER
    return b"".join(bytes([known[c]]) if c in known else c.encode() for c in piece)


def _byte_fallback_bytes(piece: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's way to write each byte as a visible character (bytes_to_unicode in its encoder.py).

    Printable bytes of Latin-1 stand for themselves, the others for U+0100 and on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(0x100) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update((chr(0x100 + i), byte) for i, byte in enumerate(others))
    return alphabet


_BYTE_OF_CHARACTER = _byte_level_alphabet()
