"""`hf:ORG/NAME[@REV]`: the Hugging Face hub, or a mirror of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from provisioning.build_model.errors import (
    GatedModelError,
    NoSuchModelError,
    SourceError,
    UnreachableError,
)
from provisioning.build_model.sources import hub_settings
from provisioning.build_model.sources.download import RemoteFile
from provisioning.build_model.sources.reachability import unreachable_hub
from provisioning.build_model.sources.remote import Listing

if TYPE_CHECKING:
    import httpx


class HubRepository:
    """A model repository; see `Repository`. The revision may be a branch, a tag or a commit."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self._repo, self._revision = repo, revision or "main"
        self.name = repo.partition("/")[2]
        self.where = f"hf:{repo}"
        self._endpoint = hub_settings.endpoint()

    def headers(self) -> dict[str, str]:
        """The token, if there is one. httpx drops it when the hub redirects to another host."""
        token = hub_settings.token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def listing(self, client: httpx.Client) -> Listing:
        """One request; the files' addresses name the commit found, whatever a branch does later."""
        revision = quote(self._revision, safe="")
        response = client.get(
            f"{self._endpoint}/api/models/{self._repo}/revision/{revision}",
            params={"blobs": "true"},
        )
        self.check(response)
        try:
            info = response.json()
            commit, siblings = info["sha"], info["siblings"]
            files = [
                self._file(commit, entry) for entry in siblings if "/" not in entry["rfilename"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{self._endpoint} does not speak the hub's protocol: its answer about "
                f"{self._repo} lacks {error}; check HF_ENDPOINT"
            ) from error
        return Listing(commit, _license(info), tuple(files))

    def check(self, response: httpx.Response) -> None:
        """The hub explains a refusal in X-Error-Code; 401 may also mean that nothing is there."""
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        message = response.headers.get("X-Error-Message", "")
        if status < 400:
            return
        if code == "GatedRepo":
            raise GatedModelError(
                f"{self.where} is gated: accept its terms at {self._endpoint}/{self._repo}, then "
                "set HF_TOKEN to a token of that account"
            )
        if "Invalid credentials" in message:
            raise GatedModelError(f"{self._endpoint} does not accept the token; renew HF_TOKEN")
        if code == "RevisionNotFound":
            raise NoSuchModelError(f"{self.where} has no revision {self._revision!r}")
        if code == "RepoNotFound" or status in (401, 404):
            raise NoSuchModelError(
                f"{self._endpoint} has no model {self._repo}, or it is private: check the "
                "spelling, or set HF_TOKEN"
            )
        if status == 403:
            raise GatedModelError(f"{self.where} may not be read: {message or 'forbidden'}")
        raise self.unreachable(f"it answers {status} {response.reason_phrase}")

    def unreachable(self, reason: str) -> UnreachableError:
        return unreachable_hub(self._endpoint, self._repo, reason)

    def _file(self, commit: str, entry: dict[str, Any]) -> RemoteFile:
        name = entry["rfilename"]
        lfs = entry.get("lfs")
        return RemoteFile(
            name=name,
            url=f"{self._endpoint}/{self._repo}/resolve/{commit}/{quote(name)}",
            size_bytes=entry["size"],
            sha256=lfs["sha256"] if lfs else None,
            # For a file in LFS the blob is the pointer, not the content.
            git_sha1=None if lfs else entry["blobId"],
        )


def _license(info: dict[str, Any]) -> str | None:
    card = info.get("cardData")
    name = card.get("license") if isinstance(card, dict) else None
    return name if isinstance(name, str) else None
