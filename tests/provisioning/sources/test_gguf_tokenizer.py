from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from provisioning.build_model.errors import SourceError
from provisioning.build_model.sources.gguf.architectures import generation_config
from provisioning.build_model.sources.gguf.container import GGUFFile, read_gguf
from provisioning.build_model.sources.gguf.tokenizer import write_tokenizer
from tests.provisioning.sources import tiny_checkout
from tests.provisioning.sources.gguf_bytes import gguf_bytes, tiny_metadata, tiny_tensors

REFERENCE = Path(__file__).parent / "smollm2_reference_ids.json"


def written(directory: Path, metadata: dict[str, Any]) -> Tokenizer:
    write_tokenizer(GGUFFile(directory / "tiny.gguf", metadata, ()), directory)
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The pieces the pre-tokenizer cuts `text` into, as text again."""
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[begin:end] for _, (begin, end) in pieces]


@pytest.mark.model
def test_the_embedded_models_ids_are_llama_cpps(model_dir: Path) -> None:
    """The published tokenizer of the embedded model against ids that llama.cpp computed."""
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    cases = json.loads(REFERENCE.read_text(encoding="utf-8"))["cases"]
    assert len(cases) > 80
    for case in cases:
        assert tokenizer.encode(case["text"]).ids == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"]


def test_every_token_keeps_its_id(tmp_path: Path) -> None:
    metadata = tiny_metadata()
    tokenizer = written(tmp_path, metadata)
    for i, token in enumerate(tiny_checkout.vocabulary()):
        assert tokenizer.token_to_id(token) == i
        assert tokenizer.id_to_token(i) == token


def test_padding_is_no_text(tmp_path: Path) -> None:
    tokenizer = written(tmp_path, tiny_metadata())
    assert tokenizer.token_to_id("[PAD262]") is None
    assert tokenizer.id_to_token(262) is None


def test_control_tokens_are_special_and_user_defined_ones_are_not(tmp_path: Path) -> None:
    metadata = tiny_metadata()
    metadata["tokenizer.ggml.tokens"][262] = "<tool_call>"
    metadata["tokenizer.ggml.token_type"][262] = 4
    tokenizer = written(tmp_path, metadata)
    added = {i: token.special for i, token in tokenizer.get_added_tokens_decoder().items()}
    assert added == {256: True, 257: True, 258: True, 262: False}
    ids = tokenizer.encode("a<tool_call>b<|im_end|>").ids
    assert ids[1] == 262 and ids[3] == 258
    assert tokenizer.decode(ids) == "a<tool_call>b"


def test_text_comes_back_from_its_bytes(tmp_path: Path) -> None:
    tokenizer = written(tmp_path, tiny_metadata())
    text = "你好 👩‍👩‍👧‍👦\n\tdef f(x):  return 12345  # é"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_merges_join_tokens_of_the_vocabulary(tmp_path: Path) -> None:
    assert written(tmp_path, tiny_metadata()).encode(" the").ids == [261]


@pytest.mark.parametrize("merge", ["Ġt nothing", "nospace", "a b c"])
def test_a_merge_that_makes_no_token_is_damage(tmp_path: Path, merge: str) -> None:
    metadata = tiny_metadata() | {"tokenizer.ggml.merges": [merge]}
    with pytest.raises(SourceError, match=r"tiny\.gguf.*tokenizer.*damaged"):
        written(tmp_path, metadata)


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("smollm", "ab 123", ["ab", " ", "1", "2", "3"]),
        ("qwen2", "ab 123\n\n x", ["ab", " ", "1", "2", "3", "\n\n", " x"]),
        ("llama-bpe", "ab 12345", ["ab", " ", "123", "45"]),
        ("gpt-2", "ab 123 'll", ["ab", " 123", " '", "ll"]),
        ("qwen2", "I'LL go", ["I", "'LL", " go"]),
        ("smollm", "I'LL go", ["I", "'", "LL", " go"]),
        ("deepseek-r1-qwen", "x;\r\ny", ["x", ";\r\n", "y"]),
    ],
)
def test_each_family_cuts_text_its_own_way(
    tmp_path: Path, pre: str, text: str, expected: list[str]
) -> None:
    assert words(written(tmp_path, tiny_metadata(pre=pre)), text) == expected


def test_only_qwen_composes_characters(tmp_path: Path) -> None:
    composed, decomposed = "é", "e\u0301"
    qwen = written(tmp_path, tiny_metadata(pre="qwen2"))
    assert qwen.encode(decomposed).ids == qwen.encode(composed).ids
    smollm = written(tmp_path, tiny_metadata(pre="smollm"))
    assert smollm.encode(decomposed).ids != smollm.encode(composed).ids


@pytest.mark.parametrize(("add_bos", "expected"), [(True, [256]), (False, []), (None, [256])])
def test_begin_of_sequence_is_added_as_the_file_says(
    tmp_path: Path, add_bos: bool | None, expected: list[int]
) -> None:
    """llama-bpe adds it unless the file says otherwise."""
    metadata = tiny_metadata(pre="llama-bpe")
    del metadata["tokenizer.ggml.add_bos_token"]
    if add_bos is not None:
        metadata["tokenizer.ggml.add_bos_token"] = add_bos
    assert written(tmp_path, metadata).encode("").ids == expected


def test_both_end_tokens_end_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    metadata = tiny_metadata() | {"general.sampling.temp": 0.7, "general.sampling.top_k": 20}
    path.write_bytes(gguf_bytes(metadata, tiny_tensors()))
    assert generation_config(read_gguf(path)) == {
        "eos_token_id": [258, 256],
        "bos_token_id": 256,
        "temperature": pytest.approx(0.7),
        "top_k": 20,
    }


@pytest.mark.build
def test_qwens_rule_gives_the_ids_of_transformers_own_tokenizer(tmp_path: Path) -> None:
    from transformers import Qwen2Tokenizer

    ours = written(tmp_path, tiny_metadata())
    vocab = {token: i for i, token in enumerate(tiny_checkout.vocabulary())}
    merges = [tuple(merge.split(" ")) for merge in tiny_checkout.MERGES]
    theirs = Qwen2Tokenizer(vocab=vocab, merges=merges)
    for case in json.loads(REFERENCE.read_text(encoding="utf-8"))["cases"]:
        if "<" not in case["text"]:  # special tokens are each model's own
            assert ours.encode(case["text"]).ids == theirs(case["text"]).input_ids, case["text"]


@pytest.mark.build
@pytest.mark.parametrize("pre", ["smollm", "qwen2"])
def test_transformers_reads_what_is_written(tmp_path: Path, pre: str) -> None:
    """Whatever class transformers picks for the architecture, it must not rebuild the tokenizer."""
    from transformers import AutoTokenizer

    ours = written(tmp_path, tiny_metadata(pre=pre))
    (tmp_path / "config.json").write_text(json.dumps(tiny_checkout.CONFIG))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "Hello  the 你好 123\n<|im_start|>I'LL e\u0301<|im_end|>"
    assert theirs(text).input_ids == ours.encode(text).ids
    assert theirs.eos_token == "<|im_end|>"
    rendered = theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert rendered == "<|im_start|>user\nx<|im_end|>\n"
