"""What the person gave the bench, and where prepared things are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from appliance.model_dir import Manifest


@dataclass(frozen=True, slots=True)
class Inputs:
    """`model_dir` is a model directory, `gguf` and `checkpoint` the same weights in the forms that
    some peers want. `settings` are those of this project's sides beyond their own. `root` is the
    checkout, `cache_dir` keeps conversions from run to run."""

    model_dir: Path
    manifest: Manifest
    gguf: Path | None
    checkpoint: Path | None
    settings: Mapping[str, str]
    root: Path
    cache_dir: Path

    @property
    def workers(self) -> Path:
        """Where the workers' scripts are."""
        return self.root / "tests" / "benchmarks" / "workers"

    def saved_prefixes(self, variant: str) -> Path:
        """Where a service that is restarted keeps what it knows, in this run."""
        return self.cache_dir / f"saved-{variant}"

    def converted(self, name: str) -> Path:
        """Where a conversion of this model is kept; another build of it has another place."""
        return self.cache_dir / f"{self.manifest.inputs_sha256[:12]}-{name}"


@contextmanager
def published(place: Path) -> Iterator[Path]:
    """Yields a path beside `place` to write a directory or a file to, and renames it when all went
    well: what stands at `place` is whole."""
    draft = place.with_name(f"{place.name}.{os.getpid()}.new")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        draft.rename(place)
    finally:
        if draft.is_dir():
            rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
