"""The models of a box: a new one takes its place in one step, and the one before comes back.

models/NAME              what `model.dir` names
models/NAME.previous     what it replaced; staging falls back to it
models/.incoming/NAME    on its way here
models/.older-NAME       the previous one of the one before, until an upgrade is through
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from appliance.model_dir import read_manifest, verify_files
from provisioning.box.places import Places
from provisioning.build_model.durable import sync, sync_tree
from provisioning.build_model.publish import exchange, previous_of


class Models:
    """The directory of models. Everything raises `OSError` when the disk refuses."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def check(self, name: str) -> None:
        """Every sha256 of what came. Raises `ModelDirError` that names the first file at fault."""
        incoming = self._places.incoming / name
        verify_files(incoming, read_manifest(incoming), checksums=True)
        for path in (incoming, *incoming.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        sync_tree(incoming)

    def publish(self, name: str) -> None:
        """Let what came be `models/NAME`, and keep what was there."""
        incoming, out = self._places.incoming / name, self._places.models / name
        previous, older = previous_of(out), self._older(name)
        if not out.exists():
            incoming.rename(out)
        else:
            if previous.exists():
                remove(older)
                previous.rename(older)
            if not exchange(incoming, out):
                out.rename(previous)
                incoming.rename(out)
            else:
                incoming.rename(previous)
        sync(self._places.models)

    def take_back(self, name: str, manifest_sha256: str | None) -> None:
        """Undo `publish`, however far it came. Before, `models/NAME` had this digest, if any."""
        out = self._places.models / name
        previous, older = previous_of(out), self._older(name)
        if digest(out) != manifest_sha256:
            replaced = self._places.incoming / name
            if manifest_sha256 is None:
                remove(out)
            elif digest(previous) == manifest_sha256:
                remove(out)
                previous.rename(out)
            elif digest(replaced) == manifest_sha256:
                remove(out)
                replaced.rename(out)
        if older.exists():
            remove(previous)
            older.rename(previous)
        self.forget_incoming()

    def forget_incoming(self) -> None:
        """Remove what never took its place."""
        remove(self._places.incoming)

    def forget_older(self, name: str) -> None:
        """Remove what an upgrade that is through need not bring back."""
        remove(self._older(name))

    def remove(self, name: str) -> None:
        """A model that was served long ago, and its own previous one."""
        remove(self._places.models / name)
        remove(previous_of(self._places.models / name))

    def _older(self, name: str) -> Path:
        return self._places.models / f".older-{name}"


def digest(model_dir: Path) -> str | None:
    """sha256 of the manifest, which has that of everything else; None: no model there."""
    try:
        return hashlib.sha256((model_dir / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return None


def remove(directory: Path) -> None:
    """A directory and all in it, whether it is there or not."""
    if directory.exists():
        shutil.rmtree(directory)
