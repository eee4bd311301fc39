"""Downloads one file: resumed where the last attempt stopped, verified before it gets its name.

huggingface_hub is not used for this: it compares sizes only, and it cannot speak to ModelScope.
Both hubs publish a checksum for every file and serve ranges, so one downloader serves both.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.model_dir import sha256_of
from provisioning.build_model.errors import SourceError
from provisioning.build_model.sources.base import Stage

if TYPE_CHECKING:
    import httpx

# Attempts in a row that bring no byte, and the pause before each: 1, 2, 4 s at most.
_MAX_FAILURES = 4
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a hub lists it. One of the checksums is known; `git_sha1` is git's blob id."""

    name: str
    url: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None


class Downloader:
    """Brings files of one hub to disk.

    `check(response)` raises the hub's own error for a status that retrying does not mend.
    `retry_pause_s` doubles with every attempt in a row that brought nothing.
    """

    def __init__(
        self,
        client: httpx.Client,
        check: Callable[[httpx.Response], None],
        retry_pause_s: float = 1.0,
    ) -> None:
        self._client, self._check, self._retry_pause_s = client, check, retry_pause_s

    def fetch(self, file: RemoteFile, target: Path, stage: Stage) -> None:
        """Make `target` hold `file`; advances `stage` by its size in all.

        A `target` that is right is kept, `target`.part is continued. Raises `SourceError` when the
        content is not what the hub announced, what `check` raises, and httpx's `TransportError`
        when the connection stays lost.
        """
        if target.is_file() and _fault(target, file) is None:
            stage.advance(file.size_bytes)
            return
        part = target.with_name(target.name + ".part")
        self._fill(part, file, stage)
        if fault := _fault(part, file):
            part.unlink()
            raise SourceError(
                f"{file.name} came damaged from {file.url}: {fault}; it was removed, run again"
            )
        part.replace(target)

    def _fill(self, part: Path, file: RemoteFile, stage: Stage) -> None:
        """Append to `part` until it has the announced size."""
        import httpx

        if part.exists() and part.stat().st_size > file.size_bytes:
            part.unlink()
        part.touch()
        meter = _Meter(stage)
        failures = 0
        while (begin := part.stat().st_size) < file.size_bytes:
            lost: Exception | None = None
            try:
                self._receive(part, begin, file, meter)
            except httpx.TransportError as error:
                lost = error
            # Counted by what arrived: a line that drops every minute still gets there.
            failures = 0 if part.stat().st_size > begin else failures + 1
            if failures >= _MAX_FAILURES:
                raise lost or httpx.ReadError(f"{file.url} sends nothing")
            if failures:
                time.sleep(self._retry_pause_s * 2 ** (failures - 1))

    def _receive(self, part: Path, begin: int, file: RemoteFile, meter: _Meter) -> None:
        """One request: append what comes from byte `begin` on."""
        import httpx

        headers = {"Range": f"bytes={begin}-"} if begin else {}
        with self._client.stream("GET", file.url, headers=headers) as response:
            if response.status_code in _TRANSIENT:
                raise httpx.ReadError(f"{file.url} answers {response.status_code}")
            if response.status_code == 416:
                part.unlink()
                raise SourceError(f"{file.url} is shorter than the {file.size_bytes} bytes listed")
            self._check(response)
            resumed = response.status_code == 206 and begin > 0
            with part.open("ab" if resumed else "wb") as output:
                meter.reached(output.tell())
                # Pieces as they come: with a size asked for, httpx would hold back what it
                # collected, and lose it when the connection breaks.
                for piece in response.iter_raw():
                    output.write(piece)
                    meter.reached(output.tell())
                    if output.tell() > file.size_bytes:
                        return  # more than was announced: damaged, and perhaps without an end


class _Meter:
    """Tells the stage how far the file has come; bytes fetched a second time count once."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._seen = stage, 0

    def reached(self, position: int) -> None:
        if position > self._seen:
            self._stage.advance(position - self._seen)
            self._seen = position


def _fault(path: Path, file: RemoteFile) -> str | None:
    """How `path` differs from what was announced, or None."""
    if (size := path.stat().st_size) != file.size_bytes:
        return f"{size} bytes, {file.size_bytes} expected"
    if file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
        return f"sha256 {found}, {file.sha256} expected"
    if file.git_sha1 is not None and (found := git_blob_id(path)) != file.git_sha1:
        return f"git blob id {found}, {file.git_sha1} expected"
    return None


def git_blob_id(path: Path) -> str:
    """git's id of the file's content, which the hub gives for files outside LFS."""
    content = path.read_bytes()
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
