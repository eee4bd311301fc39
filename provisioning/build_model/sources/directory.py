"""`dir:PATH`: a Hugging Face checkout on disk, or an OpenVINO IR as optimum-intel writes it."""

from __future__ import annotations

from pathlib import Path

from provisioning.build_model.errors import NoSuchModelError, SourceError
from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.checkout_directory import examine, link_files, total_bytes
from provisioning.build_model.sources.checksums import content_revision
from provisioning.build_model.sources.layout import Layout
from provisioning.build_model.sources.model_card import license_of
from provisioning.build_model.sources.tokenizer_file import CONVERTED_BYTES, ensure_tokenizer_json


class DirectorySource:
    """A directory that already holds the model; nothing is copied and nothing in it is changed."""

    def __init__(self, spec: str, path: Path) -> None:
        self.spec = spec
        self._path = path

    def identify(self) -> Identity:
        """Name: the directory's. Revision: sha256 over names and contents of the files used.

        The first call reads every byte; later ones take milliseconds while no file's size or
        modification time changes (see `checksums.py`).
        """
        layout = self._examine()
        try:
            revision = content_revision(self._path / name for name in layout.names)
        except OSError as error:
            raise SourceError(f"cannot read {error.filename}: {error.strerror}") from error
        return Identity(
            self._path.resolve().name,
            revision,
            license_of(self._path / "README.md"),
            CONVERTED_BYTES,
            total_bytes(self._path, layout),
        )

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Link the files into `directory`, where the tokenizer is converted if it must be."""
        layout = self._examine()
        link_files({name: self._path / name for name in layout.names}, directory)
        ensure_tokenizer_json(directory, progress)
        return Checkout(directory, layout.is_openvino)

    def _examine(self) -> Layout:
        if not self._path.is_dir():
            raise NoSuchModelError(f"{self._path} is not a directory; dir:PATH takes a checkout")
        return examine(self._path)
