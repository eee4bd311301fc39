"""The Hugging Face hub's protocol over local files, as huggingface_hub speaks it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from tests.provisioning.sources.file_server import FileServer, Request, Response


@dataclass
class HubRepo:
    """Files by revision; a revision is a branch or tag, `commit_of` names its commit."""

    revisions: dict[str, dict[str, bytes]]
    license: str | None = "apache-2.0"
    gated: bool = False
    lfs: tuple[str, ...] = ("model.safetensors",)
    token: str | None = None
    renamed_to: str | None = None
    extra: dict[str, object] = field(default_factory=dict)


def commit_of(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub(FileServer):
    """Repositories by name. Files in LFS are redirected to another host, as the hub does."""

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, HubRepo] = {}
        self.accepted_token: str | None = None

    def answer(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        if parts[0] == "cdn":
            content = self._content(parts[1], "/".join(parts[2:]))
            return Response(200, content, {"ETag": f'"{parts[1]}"'}, file="/".join(parts[2:]))
        sent = request.headers.get("authorization")
        if sent and self.accepted_token and sent != f"Bearer {self.accepted_token}":
            message = "Invalid credentials in Authorization header"
            return Response(401, b"", {"X-Error-Message": message})
        if parts[:2] == ["api", "models"]:
            return self._api(parts[2:], bool(sent))
        return self._resolve(parts, bool(sent))

    def _api(self, parts: list[str], has_token: bool) -> Response:
        repo = self.repos.get("/".join(parts[:2]))
        if repo is None:
            # The hub's way: whoever is not logged in may not even know that nothing is there.
            return Response(404 if has_token else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        kind, revision = (parts[2], parts[3]) if len(parts) > 3 else ("revision", "main")
        name = self._revision(repo, revision)
        if name is None:
            return Response(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = repo.revisions[name]
        if kind == "tree":
            return _json([_tree_entry(repo, path, content) for path, content in files.items()])
        card = {"license": repo.license} if repo.license else {}
        siblings = [_sibling(repo, path, content) for path, content in files.items()]
        info = {"id": "/".join(parts[:2]), "sha": commit_of(name), "cardData": card, "tags": []}
        info |= {"gated": "manual" if repo.gated else False, "private": False, "siblings": siblings}
        return _json(info | repo.extra)

    def _resolve(self, parts: list[str], has_token: bool) -> Response:
        if len(parts) < 5 or parts[2] != "resolve":
            return Response(404, b"not found")
        repo = self.repos.get("/".join(parts[:2]))
        if repo is None:
            return Response(401, b"", {"X-Error-Code": "RepoNotFound"})
        if repo.gated:
            message = f"Access to model {'/'.join(parts[:2])} is restricted."
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": message}
            return Response(403 if has_token else 401, b"", headers)
        revision, path = self._revision(repo, parts[3]), "/".join(parts[4:])
        content = repo.revisions.get(revision or "", {}).get(path)
        if revision is None or content is None:
            return Response(404, b"", {"X-Error-Code": "EntryNotFound"})
        commit = commit_of(revision)
        if path in repo.lfs:
            digest = hashlib.sha256(content).hexdigest()
            return Response(
                302,
                headers={
                    "Location": f"http://localhost:{self.port}/cdn/{digest}/{path}",
                    "X-Repo-Commit": commit,
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-ETag": f'"{digest}"',
                },
            )
        etag = {"ETag": f'"{git_blob(content)}"', "X-Repo-Commit": commit}
        return Response(200, content, etag, file=path)

    def _revision(self, repo: HubRepo, asked: str) -> str | None:
        asked = asked.replace("%2F", "/")
        return next((r for r in repo.revisions if asked in (r, commit_of(r))), None)

    def _content(self, digest: str, path: str) -> bytes:
        contents = [f[path] for r in self.repos.values() for f in r.revisions.values() if path in f]
        return next(c for c in contents if hashlib.sha256(c).hexdigest() == digest)


def _json(value: object) -> Response:
    return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _lfs(content: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}


def _sibling(repo: HubRepo, path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "rfilename": path,
        "size": len(content),
        "blobId": git_blob(content),
    }
    return entry | ({"lfs": _lfs(content)} if path in repo.lfs else {})


def _tree_entry(repo: HubRepo, path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": git_blob(content),
    }
    if path in repo.lfs:
        lfs = _lfs(content)
        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 134}
    return entry
