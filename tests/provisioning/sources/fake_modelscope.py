"""ModelScope's HTTP API over local files, as far as listing and downloading a model goes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from tests.provisioning.sources.file_server import FileServer, Request, Response

_API = "/api/v1/models/"


@dataclass
class ModelScopeRepo:
    revisions: dict[str, dict[str, bytes]]
    license: str = "apache-2.0"
    needs_login: bool = False


class FakeModelScope(FileServer):
    """Repositories by name. Files in LFS are redirected, the others come directly."""

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, ModelScopeRepo] = {}

    def answer(self, request: Request) -> Response:
        if request.path.startswith("/lfs/"):
            _, _, digest, name = request.path.split("/")
            return Response(200, self._by_digest(digest), file=name)
        if not request.path.startswith(_API):
            return Response(404, b"<html>not found</html>")
        org, name, *rest = request.path.removeprefix(_API).split("/")
        repo = self.repos.get(f"{org}/{name}")
        if repo is None:
            return _envelope(404, 10010205001, None, "the model does not exist")
        if repo.needs_login and "m_session_id" not in request.headers.get("cookie", ""):
            return _envelope(403, 10010205002, None, "no permission")
        files = repo.revisions.get(request.query.get("Revision", "master"))
        if not rest:
            return _envelope(200, 200, {"Name": name, "License": repo.license}, "success")
        if rest == ["repo", "files"]:
            # An unknown revision is no error there: status 200, no files.
            entries = None if files is None else [_entry(p, c) for p, c in files.items()]
            return _envelope(200, 200, {"Files": entries, "LatestCommitter": None}, "success")
        path = request.query["FilePath"]
        if files is None or path not in files:
            return _envelope(404, 10010205001, None, "no such file")
        if path.endswith(".safetensors"):
            digest = hashlib.sha256(files[path]).hexdigest()
            return Response(302, headers={"Location": f"{self.url}/lfs/{digest}/{path}"})
        return Response(200, files[path], file=path)

    def _by_digest(self, digest: str) -> bytes:
        every = [c for r in self.repos.values() for f in r.revisions.values() for c in f.values()]
        return next(c for c in every if hashlib.sha256(c).hexdigest() == digest)


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {
        "Path": path,
        "Name": path.rpartition("/")[2],
        "Type": "blob",
        "Size": len(content),
        "Sha256": hashlib.sha256(content).hexdigest(),
        "IsLFS": path.endswith(".safetensors"),
        "Revision": "0" * 40,
    }


def _envelope(status: int, code: int, data: object, message: str) -> Response:
    answer = {"Code": code, "Data": data, "Message": message, "Success": status == 200}
    return Response(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})
