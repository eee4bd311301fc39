"""What a source of weights is: the seam between fetching a model and converting it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Stage(Protocol):
    """One running stage of a build, as shown to the person who waits."""

    def advance(self, amount: int) -> None:
        """`amount` more units (bytes, layers, prompts) are done."""

    def total(self, total: int) -> None:
        """How many units there are, once known."""


class Progress(Protocol):
    """Shows stages one after another; the only thing in the build world that prints."""

    def stage(self, name: str, *, unit: str = "") -> AbstractContextManager[Stage]:
        """Open a stage: name, bar and elapsed time on a terminal, plain lines elsewhere."""

    def note(self, text: str) -> None:
        """One line of information between stages."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a source holds right now.

    `name` is the id the model is served under, `revision` a commit or `sha256:...`; together with
    the build's own settings it decides whether anything has to be built. `num_bytes` is what
    fetching writes to disk at most; `linked_bytes` is what it only links to, since it is on this
    machine already.
    """

    name: str
    revision: str
    license: str | None
    num_bytes: int
    linked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Checkout:
    """A fetched model on disk.

    `path` is a directory in Hugging Face's layout: config.json, *.safetensors, tokenizer.json,
    tokenizer_config.json, optionally chat_template.jinja and generation_config.json. With
    `is_openvino` it holds openvino_model.xml/.bin instead of safetensors.
    """

    path: Path
    is_openvino: bool


class ModelSource(Protocol):
    """A place weights come from, made from a spec such as `hf:ORG/NAME@REV`; it fetches later."""

    spec: str

    def identify(self) -> Identity:
        """Look up what is there: a request or a file's header, never a download, never torch.

        Raises a `SourceError` when the source cannot be reached, does not exist, may not be read
        or is no model this project can convert.
        """

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Bring the model into `directory` and verify it.

        May be called again after an interruption, with the same directory: what is already there
        and right is kept. Raises a `SourceError`.
        """
