"""`dir:PATH`: a Hugging Face checkout on disk, or an OpenVINO IR as optimum-intel writes it."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.model_dir import MANIFEST
from provisioning.build_model.errors import NoSuchModelError, SourceError, UnsupportedModelError
from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.checksums import content_revision
from provisioning.build_model.sources.layout import CONFIG, Layout, check_causal_lm, wanted_files
from provisioning.build_model.sources.model_card import license_of
from provisioning.build_model.sources.tokenizer_file import ensure_tokenizer_json

# A fetch writes symbolic links and at most a converted tokenizer.json.
_NUM_BYTES = 32 << 20


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
        layout = self._layout()
        try:
            revision = content_revision(self._path / name for name in layout.names)
        except OSError as error:
            raise SourceError(f"cannot read {error.filename}: {error.strerror}") from error
        name = self._path.resolve().name
        return Identity(name, revision, license_of(self._path / "README.md"), _NUM_BYTES)

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Link the files into `directory`, where the tokenizer is converted if it must be."""
        layout = self._layout()
        link_files({name: self._path / name for name in layout.names}, directory)
        ensure_tokenizer_json(directory, progress)
        return Checkout(directory, layout.is_openvino)

    def _layout(self) -> Layout:
        if not self._path.is_dir():
            raise NoSuchModelError(f"{self._path} is not a directory; dir:PATH takes a checkout")
        names = [path.name for path in self._path.iterdir() if path.is_file()]
        if MANIFEST in names and CONFIG not in names:
            raise UnsupportedModelError(
                f"{self._path} is a finished model directory already; serve it with --model"
            )
        layout = wanted_files(names, str(self._path))
        check_causal_lm(read_config(self._path / CONFIG), str(self._path))
        return layout


def read_config(path: Path) -> object:
    """The parsed config.json at `path`; raises `SourceError` when it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}") from error


def link_files(files: dict[str, Path], directory: Path) -> None:
    """Make `directory` hold a symbolic link for each name; the targets are never written to."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, target in files.items():
        link = directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())
