"""Room on the disks that the model, the compile cache and the saved prefixes are on."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.backends.compile_options import default_cache_dir
from appliance.doctor.box import Box
from appliance.doctor.finding import Section

_STATE_OF_UNIT = "var/lib/qwen-appliance"
_SMALLEST_BYTES = 128 << 20  # compiled kernels, saved prefixes, a log


def examine(box: Box) -> Section:
    """A finding per file system. An upgrade needs room for one more model beside the present."""
    section = Section("disk")
    section.facts["disks"] = []
    manifest = box.model.manifest
    model = sum(entry.size_bytes for entry in manifest.files.values()) if manifest else 0
    seen: set[int] = set()
    for purpose, path in _places(box):
        there = _nearest(path)
        try:
            device, room = there.stat().st_dev, os.statvfs(there)
        except OSError as error:
            box.unreadable[str(there)] = error.strerror or str(error)
            continue
        if device in seen:
            continue
        seen.add(device)
        free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
        section.facts["disks"].append(
            {"path": str(there), "free_bytes": free, "total_bytes": total}
        )
        told = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free at {there} ({purpose})"
        if free < _SMALLEST_BYTES:
            section.problem(purpose, told, f"make room: sudo du -xh {there} | sort -h | tail")
        elif purpose == "model" and free < model:
            section.note(purpose, f"{told}: too little for an upgrade, which keeps the old model")
        else:
            section.ok(purpose, told)
    return section


def _places(box: Box) -> list[tuple[str, Path]]:
    config, places = box.loaded.config, []
    if config.model.dir is not None:
        places.append(("model", config.model.dir))
    if cache := config.engine.compile_cache_dir or box.cache_dir or default_cache_dir():
        places.append(("cache", cache))
    state = box.machine.root / _STATE_OF_UNIT if box.is_installed else None
    if prefixes := config.engine.saved_prefixes_dir or state:
        places.append(("state", prefixes))
    return places


def _nearest(path: Path) -> Path:
    """The path, or the closest directory above it that is there."""
    for candidate in (path, *path.absolute().parents):
        if os.path.exists(candidate):  # not Path.exists(), which raises where we may not look
            return candidate
    return Path("/")
