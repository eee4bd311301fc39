"""Manifests that say something else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from appliance.model_dir import MANIFEST, read_manifest


def change(directory: Path, **fields: Any) -> None:
    """Let the manifest of a model directory have other values."""
    manifest = dataclasses.replace(read_manifest(directory), **fields)
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def fix_sizes(directory: Path) -> None:
    """Let the manifest have the sizes that the files have; their sha256 stay what they were."""
    files = {
        name: dataclasses.replace(entry, size_bytes=(directory / name).stat().st_size)
        for name, entry in read_manifest(directory).files.items()
    }
    change(directory, files=files)
