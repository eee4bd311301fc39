"""Room and permission on the disk, asked for before anything is downloaded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from appliance.model_dir import MANIFEST
from provisioning.build_model.errors import DiskError

# Logs, tokenizer, rounding of file systems, and room for the rest of the box to go on living.
MARGIN_BYTES = 512 << 20

# What the quality gate keeps of the original on disk at its peak: its prompts' answer positions
# times a vocabulary of 152,000 in float32.
REFERENCE_BYTES = 900 << 20


def needed_bytes(fetched_bytes: int, linked_bytes: int = 0) -> int:
    """Bytes that a build needs at its peak, of a source that writes `fetched_bytes` to this disk.

    `linked_bytes` of it are there already. The float export is as large as the weights, the
    compressed IR at most half of them; both, what was fetched and the gate's reference lie there
    together for a while.
    """
    weights = fetched_bytes + linked_bytes
    return fetched_bytes + weights + weights // 2 + REFERENCE_BYTES + MARGIN_BYTES


def check_free(directory: Path, needed: int, what: str, *, free: int | None = None) -> None:
    """Raise `DiskError`, naming needed and free, when there is too little room at `directory`.

    `free` overrides the file system's own figure (bytes available to this user).
    """
    if free is None:
        free = shutil.disk_usage(directory).free
    if free < needed:
        raise DiskError(
            f"{directory}: {what} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make "
            "room or choose another --out"
        )


def check_output(out: Path) -> None:
    """Make the parent of `out`, and raise `DiskError` unless `out` can be published there.

    An existing `out` must be a model directory or empty: anything else is somebody's data.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise DiskError(
            f"cannot write into {out.parent} ({error.strerror}); choose another --out or change "
            "the directory's owner"
        ) from error
    if not out.exists():
        return
    if not out.is_dir():
        raise DiskError(f"{out} exists and is no directory; choose another --out")
    if any(out.iterdir()) and not (out / MANIFEST).exists():
        raise DiskError(
            f"{out} exists and is no model directory (it has no {MANIFEST}); choose another --out"
        )
