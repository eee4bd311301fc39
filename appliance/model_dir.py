"""The model directory: the whole contract between the build world and the run world.

    openvino_model.xml, openvino_model.bin   stateful IR, INT8 weights, input `logits_indices`
    tokenizer.json, chat_template.jinja      text <-> token ids
    manifest.json                            what all this is, with a checksum for every other file

Standard library only: both worlds import it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.errors import ModelDirError

MANIFEST = "manifest.json"
FORMAT = 1
MODEL_XML = "openvino_model.xml"
MODEL_BIN = "openvino_model.bin"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
REQUIRED_FILES = (MODEL_XML, MODEL_BIN, TOKENIZER, CHAT_TEMPLATE)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the directory; `sha256` in lower-case hex."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from.

    `spec` is what was asked for (`hf:Qwen/Qwen2.5-0.5B-Instruct`), `revision` what was found: a
    commit, or `sha256:...` of the content where the source has no commits.
    """

    spec: str
    revision: str
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes the run world needs before it opens the IR. `head_dim` in elements."""

    model_type: str
    vocab_size: int
    max_model_len: int
    num_layers: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight compression. `group_size` -1 means one scale per output channel."""

    precision: str
    symmetric: bool
    group_size: int


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality gate's figures against the original weights in float32.

    `top1_agreement` is the share of answer positions with the same most likely token; `mean_kl` the
    mean of KL(original || compressed) over the same positions, in nats.
    """

    num_prompts: int
    num_positions: int
    top1_agreement: float
    mean_kl: float
    min_top1_agreement: float
    max_mean_kl: float


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt with the ids that greedy decoding answers; a box that answers others is broken."""

    prompt: str
    prompt_ids: tuple[int, ...]
    greedy_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`, typed.

    `files` holds every file of the directory but the manifest. `generation_defaults` has the keys
    of `generation_config.json` that sampling knows (temperature, top_p, top_k, min_p,
    repetition_penalty). `inputs_sha256` names what the build was made from: the same inputs give
    the same value, so an unchanged build is recognised without loading anything.
    """

    format: int
    name: str
    created: str
    source: Source
    files: dict[str, FileEntry]
    architecture: Architecture
    weights: Weights
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    generation_defaults: dict[str, float]
    tool_call_format: str | None
    versions: dict[str, str]
    quality: Quality | None
    golden: Golden
    inputs_sha256: str
    extra: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `manifest.json`, keys in order, ending with a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Read `directory/manifest.json`.

    Raises `ModelDirError` when the directory or the manifest is missing, is not JSON, is of
    another format, or has a field missing, unknown or of the wrong type.
    """
    path = directory / MANIFEST
    if not directory.is_dir():
        raise ModelDirError(directory, "does not exist; make it with provisioning/build-model.sh")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirError(
            directory,
            f"has no {MANIFEST}; a checkout or a bare OpenVINO IR becomes a model directory with "
            f"provisioning/build-model.sh --source dir:{directory} --out DIR",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelDirError(directory, f"{MANIFEST} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ModelDirError(
            directory, f"{MANIFEST} has format {found!r}, this version reads {FORMAT}"
        )
    try:
        manifest: Manifest = _typed(Manifest, data, "")
    except _FieldError as error:
        raise ModelDirError(directory, f"{MANIFEST}: {error}") from None
    return manifest


def verify_files(directory: Path, manifest: Manifest, *, checksums: bool) -> None:
    """Check that every file of the manifest is there with its size and, if asked for, its sha256.

    Raises `ModelDirError` that names the first file at fault. Sizes take microseconds, checksums
    read every byte.
    """
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise ModelDirError(directory, f"{MANIFEST} lists no {name}")
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            size = path.stat().st_size
        except OSError:
            raise ModelDirError(directory, f"{name} is missing; build it again") from None
        if size != entry.size_bytes:
            raise ModelDirError(
                directory, f"{name} has {size} bytes, {entry.size_bytes} expected; build it again"
            )
        if checksums and sha256_of(path) != entry.sha256:
            raise ModelDirError(directory, f"{name} has another sha256 than the manifest says")


def sha256_of(path: Path) -> str:
    """The file's sha256 in lower-case hex, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class _FieldError(ValueError):
    """A field of the manifest that does not fit; the text names it."""


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` (parsed JSON) as `kind`, a dataclass or one of the few type forms used above."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _typed_dataclass(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(args[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _typed(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is kind:
        return value
    raise _FieldError(f"{where} is {value!r}, expected {getattr(kind, '__name__', kind)}")


def _typed_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _FieldError(f"{where} is {value!r}, expected an object")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    if unknown := sorted(value.keys() - hints.keys()):
        raise _FieldError(f"{prefix}{unknown[0]} is not known to this version")
    required = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - value.keys()):
        raise _FieldError(f"{prefix}{missing[0]} is missing")
    return kind(**{name: _typed(hints[name], item, prefix + name) for name, item in value.items()})
