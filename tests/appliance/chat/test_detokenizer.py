"""Text as it comes: never a broken character, and all of it together the decoded answer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.chat.detokenizer import Detokenizer
from appliance.chat.tokenizer import Tokenizer
from tests.tiny_model import END_OF_TEXT, IM_END, make

REPLACEMENT = "\ufffd"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte, its id is the byte: every character of more is split over tokens."""
    return Tokenizer(make(tmp_path_factory.mktemp("model") / "tiny"))


def feed_one_at_a_time(tokenizer: Tokenizer, token_ids: bytes | list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.feed([token_id]) for token_id in token_ids), detokenizer.finish()]


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界！",
        "naïve café — “quotes”",
        "👩‍👩‍👧‍👦 and 🏳️‍🌈 and 👍🏽",
        "🇩🇪🇨🇳",
        "e\u0301 \u200b \ufeff end",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
    ],
)
def test_a_character_comes_whole_with_its_last_byte(tokenizer: Tokenizer, text: str) -> None:
    pieces = feed_one_at_a_time(tokenizer, text.encode())
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)
    # A character appears as soon as it can: no piece holds two, and nothing waits for the end.
    assert [piece for piece in pieces if piece] == list(text)
    assert pieces[-1] == ""


def test_a_replacement_character_that_was_written_is_kept(tokenizer: Tokenizer) -> None:
    assert "".join(feed_one_at_a_time(tokenizer, "a\ufffdb".encode())) == "a\ufffdb"


@given(pieces=st.lists(st.binary(max_size=6)))
@example(pieces=[b"\xed", b"\xa0\x80", b"x"])
@example(pieces=[b"\xf0\x9f", b"\xf0\x9f\x98", b"\x80"])
@example(pieces=[b"\xe4\xbd", b"", b"\xa0", b"\xe4"])
@example(pieces=[b"\xf4\x90", b"\x80\x80", b"\xc0", b"\xaf"])
def test_any_bytes_in_any_pieces_are_what_decoding_all_of_them_is(
    tokenizer: Tokenizer, pieces: list[bytes]
) -> None:
    detokenizer = Detokenizer(tokenizer)
    text = "".join([*(detokenizer.feed(piece) for piece in pieces), detokenizer.finish()])
    assert text == b"".join(pieces).decode("utf-8", "replace")


@given(text=st.text(), cuts=st.lists(st.integers(0, 40)))
def test_any_text_in_any_pieces_comes_back(
    tokenizer: Tokenizer, text: str, cuts: list[int]
) -> None:
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join([*pieces, detokenizer.finish()]) == text


def test_an_answer_that_ends_inside_a_character_says_so_at_the_end(tokenizer: Tokenizer) -> None:
    pieces = feed_one_at_a_time(tokenizer, b"a" + "你".encode()[:2])
    assert pieces == ["a", "", "", REPLACEMENT]


def test_special_tokens_and_padding_have_no_text(tokenizer: Tokenizer) -> None:
    first, second, third = "你".encode()
    ids = [IM_END, first, END_OF_TEXT, second, 299, third]
    assert "".join(feed_one_at_a_time(tokenizer, ids)) == "你"


@pytest.mark.model
@pytest.mark.parametrize(
    "text",
    ["你好，世界！繁體字", "👩‍👩‍👧‍👦🏳️‍🌈👍🏽", "Ω≈ç√∫ ﷽ 𓀀", "for i in range(10):\n\tprint(i)\r\n"],
)
def test_a_real_vocabulary_one_token_at_a_time(model_dir: Path, text: str) -> None:
    tokenizer = Tokenizer(model_dir)
    pieces = feed_one_at_a_time(tokenizer, list(tokenizer.encode(text)))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)
