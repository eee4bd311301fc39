"""Gathers what the stages made into one directory with its manifest, ready to be published."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

from appliance.model_dir import (
    FORMAT,
    MANIFEST,
    REQUIRED_FILES,
    FileEntry,
    Manifest,
    Source,
    read_manifest,
    sha256_of,
    verify_files,
)
from provisioning.build_model.pipeline import Inputs, Made
from provisioning.build_model.sources.base import Identity
from provisioning.build_model.workspace import Workspace

# The workspace's directory in which it lies until it is published.
FINISHED = "finished"


def assemble(workspace: Workspace, inputs: Inputs, identity: Identity, made: Made) -> Path:
    """Make a complete model directory inside `workspace` and return it.

    Files are hard links, so a run that is interrupted here has lost nothing.
    """
    directory = workspace.directory(FINISHED)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    files = {}
    for name in REQUIRED_FILES:
        (directory / name).hardlink_to(made.model / name)
        files[name] = FileEntry(sha256_of(directory / name), (directory / name).stat().st_size)
    manifest = Manifest(
        format=FORMAT,
        name=inputs.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=Source(inputs.spec, inputs.revision, identity.license),
        files=files,
        architecture=made.architecture,
        weights=made.weights,
        eos_token_ids=made.text.eos_token_ids,
        bos_token_id=made.text.bos_token_id,
        generation_defaults=made.text.generation_defaults,
        tool_call_format=made.text.tool_call_format,
        versions=inputs.versions,
        quality=made.quality,
        golden=made.golden,
        inputs_sha256=inputs.sha256(),
    )
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    verify_files(directory, read_manifest(directory), checksums=False)
    return directory
