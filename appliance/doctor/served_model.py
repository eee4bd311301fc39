"""The model directory that the settings name: what it is, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ModelDirError
from appliance.model_dir import Manifest, read_manifest, verify_files


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`manifest` None: there is none that can be read. `fault` says what is wrong with it.

    `is_out_of_reach`: it may be fine, but this user may not read it. `verified` is what agrees with
    the manifest: `sha256`, `sizes`, or None.
    """

    directory: Path | None
    manifest: Manifest | None = None
    fault: str | None = None
    is_out_of_reach: bool = False
    verified: str | None = None


def look_at(directory: Path | None, *, checksums: bool) -> ServedModel:
    """Read the manifest and check every file of it."""
    if directory is None:
        return ServedModel(None)
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(directory)
        verify_files(directory, manifest, checksums=checksums)
    except ModelDirError as error:
        denied = isinstance(error.__cause__ or error.__context__, PermissionError)
        return ServedModel(directory, manifest, error.reason, denied)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return ServedModel(directory, manifest, reason, isinstance(error, PermissionError))
    return ServedModel(directory, manifest, verified="sha256" if checksums else "sizes")
