"""A model in a repository on a hub: the part that is the same for every hub."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from provisioning.build_model.errors import SourceError, UnreachableError
from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.download import Downloader, RemoteFile
from provisioning.build_model.sources.layout import CONFIG, Layout, check_causal_lm, wanted_files
from provisioning.build_model.sources.tokenizer_file import CONVERTED_BYTES, ensure_tokenizer_json

if TYPE_CHECKING:
    import httpx

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one revision. `files`: those at the top level."""

    revision: str
    license: str | None
    files: tuple[RemoteFile, ...]

    def named(self, name: str) -> RemoteFile:
        """The file called `name`, which must be listed."""
        return next(file for file in self.files if file.name == name)


class Repository(Protocol):
    """One model repository, spoken to in its hub's own protocol."""

    where: str
    name: str

    def headers(self) -> dict[str, str]:
        """Sent with every request to the hub, never to where it redirects."""

    def listing(self, client: httpx.Client) -> Listing:
        """Ask the hub; raises a `SourceError`, or httpx's `TransportError`."""

    def check(self, response: httpx.Response) -> None:
        """Raise the `SourceError` that a refusing response means; return for a good one."""

    def unreachable(self, reason: str) -> UnreachableError:
        """The error for a hub that does not answer."""


class RemoteSource:
    """Looks up a repository once, then downloads the files that make the model."""

    def __init__(self, spec: str, repository: Repository, retry_pause_s: float = 1.0) -> None:
        self.spec = spec
        self._repository, self._retry_pause_s = repository, retry_pause_s
        self._found: tuple[Listing, Layout] | None = None

    def identify(self) -> Identity:
        """Two small requests: the listing, and config.json to see what kind of model it is."""
        listing, layout = self._look_up()
        sizes = {file.name: file.size_bytes for file in listing.files}
        num_bytes = sum(sizes[name] for name in layout.names)
        if "tokenizer.json" not in layout.names:
            num_bytes += CONVERTED_BYTES
        return Identity(self._repository.name, listing.revision, listing.license, num_bytes)

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Download what `identify` looked up, small files first."""
        listing, layout = self._look_up()
        directory.mkdir(parents=True, exist_ok=True)
        files = [listing.named(name) for name in layout.names]
        with self._client() as client, progress.stage("download", unit="bytes") as stage:
            stage.total(sum(file.size_bytes for file in files))
            downloader = Downloader(client, self._repository.check, self._retry_pause_s)
            for file in files:
                downloader.fetch(file, directory / file.name, stage)
        ensure_tokenizer_json(directory, progress)
        return Checkout(directory, layout.is_openvino)

    def _look_up(self) -> tuple[Listing, Layout]:
        if self._found is None:
            with self._client() as client:
                listing = self._repository.listing(client)
                where = self._repository.where
                layout = wanted_files([file.name for file in listing.files], where)
                response = client.get(listing.named(CONFIG).url)
                self._repository.check(response)
                try:
                    config = response.json()
                except ValueError as error:
                    raise SourceError(f"{where}: {CONFIG} is not JSON: {error}") from error
                check_causal_lm(config, where)
            self._found = listing, layout
        return self._found

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        import httpx

        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        # identity: a compressed body has no length to resume from, and weights do not shrink.
        headers = {"Accept-Encoding": "identity", **self._repository.headers()}
        try:
            client = httpx.Client(
                headers=headers, timeout=timeout, follow_redirects=True, verify=_tls_context()
            )
        except (ImportError, ValueError) as error:  # a SOCKS proxy, or one that is no URL
            raise SourceError(
                f"the proxy of the environment (HTTPS_PROXY, ALL_PROXY) cannot be used: {error}; "
                "set it to an http:// address or unset it"
            ) from error
        try:
            with client:
                yield client
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise self._repository.unreachable(reason) from error


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """One for all clients: reading the certificate authorities takes 50 ms and more."""
    import httpx

    return httpx.create_ssl_context()
