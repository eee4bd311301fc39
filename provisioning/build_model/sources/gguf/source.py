"""`gguf:PATH`: a local GGUF file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.checksums import file_sha256
from provisioning.build_model.sources.gguf.architectures import (
    generation_config,
    model_config,
    tensor_names,
)
from provisioning.build_model.sources.gguf.container import GGUFFile, read_gguf
from provisioning.build_model.sources.gguf.tokenizer import check_tokenizer, write_tokenizer
from provisioning.build_model.sources.gguf.weights import weights_num_bytes, write_weights

_QUANTISATION_SUFFIX = re.compile(r"[-._](?:i?q\d\w*|b?f16|f32)$", re.IGNORECASE)
_TOKENIZER_BYTES_PER_ENTRY = 64  # tokenizer.json per token or merge; Qwen's needs 35
_OTHER_FILES_BYTES = 1 << 20


class GGUFSource:
    """A GGUF file, dequantised to a Hugging Face checkout when fetched."""

    def __init__(self, spec: str, path: Path) -> None:
        self.spec = spec
        self._path = path

    def identify(self) -> Identity:
        """Name: the file's, without its quantisation. Revision: the file's sha256."""
        file = checked_gguf(self._path)
        return Identity(
            name=_QUANTISATION_SUFFIX.sub("", self._path.stem),
            revision=f"sha256:{file_sha256(self._path)}",
            license=file.metadata.get("general.license"),
            num_bytes=checkout_num_bytes(file),
        )

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Convert the file; weights already converted from the same content are kept."""
        revision = f"sha256:{file_sha256(self._path)}"
        return convert_gguf(checked_gguf(self._path), revision, directory, progress)


def checked_gguf(path: Path) -> GGUFFile:
    """Read the header and raise a `SourceError` for anything that could not be converted."""
    file = read_gguf(path)
    check_tokenizer(file)
    tensor_names(file)
    model_config(file)
    return file


def checkout_num_bytes(file: GGUFFile) -> int:
    """Upper bound of what `convert_gguf` writes."""
    lists = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    num_entries = sum(len(file.metadata.get(key, ())) for key in lists)
    return weights_num_bytes(file) + num_entries * _TOKENIZER_BYTES_PER_ENTRY + _OTHER_FILES_BYTES


def convert_gguf(file: GGUFFile, revision: str, directory: Path, progress: Progress) -> Checkout:
    """Write config, tokenizer and float16 weights of `file` into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", model_config(file)),
        ("generation_config.json", generation_config(file)),
    ):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(file, directory)
    with progress.stage("dequantise", unit="bytes") as stage:
        write_weights(file, directory / "model.safetensors", revision, stage)
    return Checkout(directory, is_openvino=False)
