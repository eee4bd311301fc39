"""Text to ids, and each id to its bytes: together what the tokenizer's own decoder says."""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from appliance.chat.tokenizer import Tokenizer
from appliance.errors import ModelDirError
from appliance.model_dir import TOKENIZER, read_manifest
from tests.tiny_model import END_OF_TEXT, IM_END, IM_START, byte_tokenizer

TEXTS = [
    "Hello, world!  Two  spaces, a\ttab,\r\nlines\n\n\n",
    "你好，世界！今天天氣怎麼樣？「引號」",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇨🇳 é e\u0301",
    "def f(x: int) -> str:\n    return f'{x:03d}' * 2  # 1234567890 3.14159e-10",
    "Ελληνικά русский العربية हिन्दी ไทย 한국어 日本語",
    "\u00a0\u200b\ufeff\u2028 \x00\x7f ĠĊ ▁ <0x0A> <|not_special|>",
    "",
]


def saved(tokenizer: HuggingFaceTokenizer, directory: Path) -> Path:
    tokenizer.save(str(directory / TOKENIZER))
    return directory


def byte_fallback_tokenizer() -> HuggingFaceTokenizer:
    """As Llama 2 and Gemma have it: pieces with U+2581 for a space, bytes for what is unknown."""
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "h",
        "i",
        "▁h",
        "▁hi",
        "好",
    ]
    tokenizer = HuggingFaceTokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("▁", "h"), ("▁h", "i")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


def text_of(tokenizer: Tokenizer, token_ids: tuple[int, ...]) -> str:
    return b"".join(map(tokenizer.token_bytes, token_ids)).decode("utf-8", "replace")


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_all_tokens_are_the_text_s(tiny_model_dir: Path, text: str) -> None:
    tokenizer = Tokenizer(tiny_model_dir)
    token_ids = tokenizer.encode(text)
    assert len(token_ids) == len(text.encode())
    assert text_of(tokenizer, token_ids) == text


def test_each_byte_has_its_token(tiny_model_dir: Path) -> None:
    tokenizer = Tokenizer(tiny_model_dir)
    assert [tokenizer.token_bytes(byte) for byte in range(256)] == [
        bytes([byte]) for byte in range(256)
    ]


def test_special_tokens_are_recognised_in_text_and_add_none(tiny_model_dir: Path) -> None:
    tokenizer = Tokenizer(tiny_model_dir)
    ids = tokenizer.encode("<|im_start|>a<|im_end|><|endoftext|>")
    assert ids == (IM_START, ord("a"), IM_END, END_OF_TEXT)
    assert [tokenizer.token_bytes(id_) for id_ in ids] == [b"", b"a", b"", b""]


def test_ids_that_are_only_padding_of_the_vocabulary_add_nothing(tiny_model_dir: Path) -> None:
    assert Tokenizer(tiny_model_dir).token_bytes(299) == b""


def test_an_added_token_that_is_not_special_is_text(tmp_path: Path) -> None:
    raw = byte_tokenizer()
    raw.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("Ġé", special=False)])
    tokenizer = Tokenizer(saved(raw, tmp_path))
    ids = tokenizer.encode("<tool_call>xĠé")
    assert ids == (259, ord("x"), 260)
    # Written as it is: its characters are no bytes in disguise.
    assert text_of(tokenizer, ids) == "<tool_call>xĠé"


@pytest.mark.parametrize("text", ["hi hi 好", "你好 👍🏽", "a\nb", "  hi", "▁"])
def test_pieces_with_byte_fallback(tmp_path: Path, text: str) -> None:
    raw = byte_fallback_tokenizer()
    tokenizer = Tokenizer(saved(raw, tmp_path))
    ids = tokenizer.encode(text)
    assert text_of(tokenizer, ids) == raw.decode(list(ids)) == text.replace("▁", " ")
    assert tokenizer.token_bytes(raw.token_to_id("<0x0A>")) == b"\n"
    assert tokenizer.token_bytes(raw.token_to_id("</s>")) == b""


def test_the_model_s_own_beginning_is_added_only_when_asked_for(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    raw = byte_tokenizer()
    raw.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", END_OF_TEXT)]
    )
    tokenizer = Tokenizer(saved(raw, tmp_path))
    assert tokenizer.encode("a") == (ord("a"),)
    assert tokenizer.encode("a", add_special_tokens=True) == (END_OF_TEXT, ord("a"))


def test_truncation_and_padding_that_the_file_asks_for_are_not_for_prompts(tmp_path: Path) -> None:
    raw = byte_tokenizer()
    raw.enable_truncation(max_length=3)
    raw.enable_padding(length=8)
    assert len(Tokenizer(saved(raw, tmp_path)).encode("abcdef")) == 6


@pytest.mark.parametrize(
    "decoder",
    [decoders.WordPiece(), decoders.Metaspace(), None],
    ids=["WordPiece", "Metaspace", "none"],
)
def test_a_decoder_whose_bytes_are_not_known_is_refused(tmp_path: Path, decoder: object) -> None:
    raw = byte_tokenizer()
    raw.decoder = decoder
    with pytest.raises(ModelDirError, match="has the decoder") as caught:
        Tokenizer(saved(raw, tmp_path))
    assert caught.value.path == tmp_path
    if decoder is not None:
        assert type(decoder).__name__ in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json", b"\xff\xfe", b"[1, 2]"])
def test_a_file_that_is_missing_or_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / TOKENIZER).write_bytes(content)
    with pytest.raises(ModelDirError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_templates_get_the_special_tokens_that_the_manifest_names(tiny_model_dir: Path) -> None:
    tokenizer, manifest = Tokenizer(tiny_model_dir), read_manifest(tiny_model_dir)
    assert tokenizer.special_tokens(manifest) == {"eos_token": "<|im_end|>"}
    with_bos = dataclasses.replace(manifest, bos_token_id=END_OF_TEXT)
    assert tokenizer.special_tokens(with_bos) == {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
    }


def test_a_manifest_without_end_tokens_names_none(tiny_model_dir: Path) -> None:
    manifest = dataclasses.replace(read_manifest(tiny_model_dir), eos_token_ids=())
    assert Tokenizer(tiny_model_dir).special_tokens(manifest) == {}


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_a_real_vocabulary_s_bytes_are_what_its_own_decoder_says(
    model_dir: Path, text: str
) -> None:
    raw = HuggingFaceTokenizer.from_file(str(model_dir / TOKENIZER))
    tokenizer = Tokenizer(model_dir)
    ids = tokenizer.encode(text)
    assert list(ids) == raw.encode(text, add_special_tokens=False).ids
    assert text_of(tokenizer, ids) == raw.decode(list(ids), skip_special_tokens=True)
    # Some vocabularies compose characters first (Qwen's does).
    assert unicodedata.normalize("NFC", text_of(tokenizer, ids)) == unicodedata.normalize(
        "NFC", text
    )


@pytest.mark.model
def test_every_id_of_a_real_vocabulary_has_the_bytes_its_own_decoder_gives_it(
    model_dir: Path,
) -> None:
    raw = HuggingFaceTokenizer.from_file(str(model_dir / TOKENIZER))
    tokenizer = Tokenizer(model_dir)
    for token_id in range(read_manifest(model_dir).architecture.vocab_size):
        decoded = raw.decode([token_id], skip_special_tokens=True)
        assert tokenizer.token_bytes(token_id).decode("utf-8", "replace") == decoded, token_id
