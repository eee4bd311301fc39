"""A model directory with everything but a model: bytes as tokens, ChatML, a manifest that fits.

For tests of all that surrounds the forward pass; the fakes do the passes.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from appliance.model_dir import (
    CHAT_TEMPLATE,
    FORMAT,
    MANIFEST,
    MODEL_BIN,
    MODEL_XML,
    TOKENIZER,
    Architecture,
    FileEntry,
    Golden,
    Manifest,
    Source,
    Weights,
    sha256_of,
)

IM_START, IM_END, END_OF_TEXT = 256, 257, 258
VOCAB_SIZE = 300
TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPT_END = (IM_START, *b"assistant\n")
"""The token ids that every rendered conversation ends with."""


def byte_tokenizer() -> Tokenizer:
    """One token per byte (its id is the byte), and ChatML's special tokens."""
    alphabet = {chr(b): b for b in range(256)}
    printable = [b for b in range(256) if chr(b) in pre_tokenizers.ByteLevel.alphabet()]
    others = [b for b in range(256) if b not in printable]
    alphabet = {chr(b): b for b in printable}
    alphabet.update({chr(0x100 + i): b for i, b in enumerate(others)})
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]
    )
    return tokenizer


def make(directory: Path, *, generation_defaults: dict[str, float] | None = None) -> Path:
    """Write the model directory and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(str(directory / TOKENIZER))
    (directory / CHAT_TEMPLATE).write_text(TEMPLATE, encoding="utf-8")
    (directory / MODEL_XML).write_text("<net/>", encoding="utf-8")
    (directory / MODEL_BIN).write_bytes(b"\0" * 16)
    files = {
        path.name: FileEntry(sha256_of(path), path.stat().st_size)
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    }
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        created="2026-01-01T00:00:00+00:00",
        source=Source("dir:tiny", "sha256:0", "apache-2.0"),
        files=files,
        architecture=Architecture("tiny", VOCAB_SIZE, 512, 1, 1, 1),
        weights=Weights("int8", True, -1),
        eos_token_ids=(IM_END, END_OF_TEXT),
        bos_token_id=None,
        generation_defaults=generation_defaults or {},
        tool_call_format="hermes",
        versions={},
        quality=None,
        golden=Golden("hi", tuple(b"hi"), (1, 2)),
        inputs_sha256="0",
    )
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return directory
