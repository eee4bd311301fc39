from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.model_dir import CHAT_TEMPLATE, TOKENIZER
from provisioning.build_model.errors import UnsupportedModelError
from provisioning.build_model.tokenizer_files import (
    check_tokenizer_kind,
    read_text_side,
    write_text_files,
)
from tests import tiny_model

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without weights: <|im_end|> (257) ends an answer, <|endoftext|> (258) a text."""
    tiny_model.byte_tokenizer().save(str(tmp_path / TOKENIZER))
    write(tmp_path / "config.json", eos_token_id=257)
    write(tmp_path / "tokenizer_config.json", eos_token="<|im_end|>", chat_template=TEMPLATE)
    return tmp_path


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content))


def test_ids_that_end_an_answer_are_united(checkout: Path) -> None:
    write(checkout / "generation_config.json", eos_token_id=[257, 258])
    write(checkout / "config.json", eos_token_id=258)

    assert read_text_side(checkout).eos_token_ids == (257, 258)


def test_tokenizers_own_end_joins_that_of_the_config(checkout: Path) -> None:
    token = {"content": "<|endoftext|>", "special": True}
    write(checkout / "tokenizer_config.json", eos_token=token, chat_template=TEMPLATE)

    assert read_text_side(checkout).eos_token_ids == (257, 258)


def test_no_end_of_answer_is_refused(checkout: Path) -> None:
    write(checkout / "config.json")
    write(checkout / "tokenizer_config.json", chat_template=TEMPLATE)

    with pytest.raises(UnsupportedModelError, match="no end-of-answer token"):
        read_text_side(checkout)


def test_special_token_that_the_vocabulary_lacks_is_named(checkout: Path) -> None:
    write(checkout / "tokenizer_config.json", eos_token="</s>", chat_template=TEMPLATE)

    with pytest.raises(UnsupportedModelError, match="eos_token '</s>'"):
        read_text_side(checkout)


def test_template_file_wins_over_the_configs(checkout: Path) -> None:
    (checkout / CHAT_TEMPLATE).write_text("from the file")
    assert read_text_side(checkout).chat_template == "from the file"


def test_default_of_several_templates_is_taken(checkout: Path) -> None:
    named = [
        {"name": "tool_use", "template": "with tools"},
        {"name": "default", "template": "plain"},
    ]
    write(checkout / "tokenizer_config.json", chat_template=named)
    assert read_text_side(checkout).chat_template == "plain"


@pytest.mark.parametrize("template", [None, [{"name": "rag", "template": "x"}]])
def test_model_that_cannot_chat_is_refused(checkout: Path, template: object) -> None:
    write(checkout / "tokenizer_config.json", chat_template=template)
    with pytest.raises(UnsupportedModelError, match="instruct version"):
        read_text_side(checkout)


def test_tool_call_format_is_read_from_the_template(checkout: Path) -> None:
    assert read_text_side(checkout).tool_call_format is None
    (checkout / CHAT_TEMPLATE).write_text(TEMPLATE + "<tool_call>\n{...}\n</tool_call>")
    assert read_text_side(checkout).tool_call_format == "hermes"


def test_only_known_sampling_defaults_are_kept(checkout: Path) -> None:
    write(
        checkout / "generation_config.json",
        temperature=0.7,
        top_k=20,
        min_p=None,
        repetition_penalty=1.1,
        do_sample=True,
        transformers_version="4",
    )
    assert read_text_side(checkout).generation_defaults == {
        "temperature": 0.7,
        "top_k": 20.0,
        "repetition_penalty": 1.1,
    }


def test_bos_is_the_tokenizers_word_not_the_configs(checkout: Path) -> None:
    write(checkout / "config.json", eos_token_id=257, bos_token_id=258)
    assert read_text_side(checkout).bos_token_id is None


def test_files_for_the_run_world_are_written(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_text_files(checkout, read_text_side(checkout), out)

    assert (out / TOKENIZER).read_bytes() == (checkout / TOKENIZER).read_bytes()
    assert (out / CHAT_TEMPLATE).read_text() == TEMPLATE


def test_missing_tokenizer_is_refused(checkout: Path) -> None:
    (checkout / TOKENIZER).unlink()
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json"):
        read_text_side(checkout)


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}},
        {
            "model": {"type": "BPE"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
        },
        {"model": {"type": "BPE", "byte_fallback": True}},
        {"model": {"type": "Unigram", "byte_fallback": True}},
    ],
)
def test_tokenizers_made_of_bytes_are_accepted(tokenizer: dict[str, Any]) -> None:
    check_tokenizer_kind(tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [
        ({"model": {"type": "WordPiece"}, "decoder": {"type": "WordPiece"}}, "WordPiece"),
        ({"model": {"type": "Unigram", "byte_fallback": False}}, "Unigram"),
        ({"model": {"type": "BPE"}, "decoder": {"type": "Metaspace"}}, "Metaspace"),
    ],
)
def test_other_tokenizers_are_refused_by_name(tokenizer: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        check_tokenizer_kind(tokenizer)
