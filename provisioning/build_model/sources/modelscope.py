"""`modelscope:ORG/NAME[@REV]`: ModelScope, through its HTTP API.

    GET /api/v1/models/ORG/NAME?Revision=REV                              {"Data": {"License": ...}}
    GET /api/v1/models/ORG/NAME/repo/files?Revision=REV&Recursive=true    {"Data": {"Files": [...]}}
    GET /api/v1/models/ORG/NAME/repo?Revision=REV&FilePath=PATH           the file; ranges work

The endpoint and token come from the variables ModelScope's own client reads, MODELSCOPE_DOMAIN
and MODELSCOPE_API_TOKEN.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from provisioning.build_model.errors import (
    GatedModelError,
    NoSuchModelError,
    SourceError,
    UnreachableError,
)
from provisioning.build_model.sources.checksums import revision_of
from provisioning.build_model.sources.download import RemoteFile
from provisioning.build_model.sources.layout import is_wanted
from provisioning.build_model.sources.reachability import unreachable_modelscope
from provisioning.build_model.sources.remote import Listing

if TYPE_CHECKING:
    import httpx

_DEFAULT_DOMAIN = "www.modelscope.cn"


class ModelScopeRepository:
    """A model repository; see `Repository`. The revision may be a branch or a tag."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self._repo, self._revision = repo, revision or "master"
        self.name = repo.partition("/")[2]
        self.where = f"modelscope:{repo}"
        domain = os.environ.get("MODELSCOPE_DOMAIN") or _DEFAULT_DOMAIN
        self._endpoint = (domain if "://" in domain else f"https://{domain}").rstrip("/")
        self._api = f"{self._endpoint}/api/v1/models/{repo}"

    def headers(self) -> dict[str, str]:
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        return {"Cookie": f"m_session_id={token}"} if token else {}

    def listing(self, client: httpx.Client) -> Listing:
        """Two requests. Revision: of the content, as ModelScope's commits are those of branches."""
        license = self._data(client, self._api, {"Revision": self._revision}).get("License")
        parameters = {"Revision": self._revision, "Recursive": "true"}
        entries = self._data(client, f"{self._api}/repo/files", parameters).get("Files")
        if not entries:  # what ModelScope answers, with status 200, for an unknown revision
            raise NoSuchModelError(f"{self.where} has no revision {self._revision!r}")
        try:
            blobs = [e for e in entries if e["Type"] != "tree" and "/" not in e["Path"]]
            files = tuple(self._file(entry) for entry in blobs)
        except (KeyError, TypeError) as error:
            raise SourceError(
                f"{self._endpoint} lists {self._repo} without {error}, so that its files cannot be "
                "verified; take the model as hf: or dir:"
            ) from error
        revision = revision_of((f.name, str(f.sha256)) for f in files if is_wanted(f.name))
        return Listing(revision, license or None, files)

    def check(self, response: httpx.Response) -> None:
        """ModelScope answers in JSON with a `Message`; 401 and 403 ask for a login."""
        status = response.status_code
        if status < 400:
            return
        if status in (401, 403):
            raise GatedModelError(
                f"{self.where} needs a login: ask for access at "
                f"{self._endpoint}/models/{self._repo} and set MODELSCOPE_API_TOKEN"
            )
        if status == 404:
            raise NoSuchModelError(
                f"{self._endpoint} has no model {self._repo}: check the spelling"
            )
        raise self.unreachable(f"it answers {status} {response.reason_phrase}")

    def unreachable(self, reason: str) -> UnreachableError:
        return unreachable_modelscope(self._endpoint, self._repo, reason)

    def _data(self, client: httpx.Client, url: str, parameters: dict[str, str]) -> dict[str, Any]:
        response = client.get(url, params=parameters)
        self.check(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("Data"), dict):
            message = answer.get("Message") if isinstance(answer, dict) else "no JSON"
            raise SourceError(f"{self._endpoint} does not tell about {self._repo}: {message}")
        data: dict[str, Any] = answer["Data"]
        return data

    def _file(self, entry: dict[str, Any]) -> RemoteFile:
        query = urlencode({"Revision": self._revision, "FilePath": entry["Path"]})
        return RemoteFile(
            name=entry["Path"],
            url=f"{self._api}/repo?{query}",
            size_bytes=entry["Size"],
            sha256=entry["Sha256"],
        )
