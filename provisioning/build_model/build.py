"""A build from source to published model directory: which stages run, in what order, with what.

identify -> [unchanged? say so, end] -> room -> fetch -> export -> compress -> reference
         -> verify -> gate -> publish
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ModelDirError
from appliance.model_dir import Manifest, read_manifest, verify_files
from provisioning.build_model import disk
from provisioning.build_model.assemble import FINISHED, assemble
from provisioning.build_model.errors import DiskError, UnreachableError
from provisioning.build_model.pipeline import Inputs, Pipeline
from provisioning.build_model.publish import complete_publication, publish
from provisioning.build_model.sources import open_source
from provisioning.build_model.sources.base import Identity, ModelSource, Progress
from provisioning.build_model.versions import build_versions
from provisioning.build_model.workspace import open_workspace, workspace_of


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built: the command line, checked. `name` overrides the source's own."""

    spec: str
    out: Path
    precision: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a build ended: the manifest at `out`, and whether this run put it there."""

    manifest: Manifest
    published: bool


def build(order: Order, progress: Progress) -> Outcome:
    """Have the ordered model directory at `order.out`, building what is not there yet.

    Raises a `BuildError`; `order.out` is then as it was.
    """
    source = open_source(order.spec)
    current = _current(order.out)
    try:
        identity = source.identify()
    except UnreachableError as error:
        if current is None or not _is_of(order, current):
            raise
        progress.note(f"{error}; keeping the model in {order.out}, built {current.created}")
        return Outcome(current, published=False)
    inputs = Inputs(
        spec=order.spec,
        name=order.name or identity.name,
        revision=identity.revision,
        precision=order.precision,
        versions=build_versions(),
    )
    if current is not None and current.inputs_sha256 == inputs.sha256():
        _tidy(order.out)
        progress.note(f"{order.out} is up to date: {current.name}, {current.source.revision}")
        return Outcome(current, published=False)
    try:
        return Outcome(_convert(order, source, identity, inputs, progress), published=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"{order.out.parent}: the disk ran full; make room, run again"
            ) from error
        raise


def _convert(
    order: Order, source: ModelSource, identity: Identity, inputs: Inputs, progress: Progress
) -> Manifest:
    disk.check_output(order.out)
    with open_workspace(order.out) as workspace:
        pipeline = Pipeline(workspace, inputs, progress)
        if not pipeline.has_checkout():
            needed = disk.needed_bytes(identity.num_bytes, identity.linked_bytes)
            disk.check_free(order.out.parent, needed, f"building {inputs.name}")
        made = pipeline.run()
        finished = assemble(workspace, inputs, identity, made)
        publish(finished, order.out)
        workspace.remove()
    return read_manifest(order.out)


def _tidy(out: Path) -> None:
    """Complete the publication of `out` if the run that published it was killed at that."""
    if workspace_of(out).exists():
        with open_workspace(out) as workspace:
            if complete_publication(workspace.directory(FINISHED), out):
                workspace.remove()


def _current(out: Path) -> Manifest | None:
    """The manifest of a complete model directory at `out`, if one is there."""
    try:
        manifest = read_manifest(out)
        verify_files(out, manifest, checksums=False)
    except ModelDirError:
        return None
    return manifest


def _is_of(order: Order, manifest: Manifest) -> bool:
    """Whether `manifest` is what the order asks for, as far as can be told without its source."""
    same_name = order.name in (None, manifest.name)
    same_precision = manifest.weights.precision == order.precision
    return manifest.source.spec == order.spec and same_precision and same_name
