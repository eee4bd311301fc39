"""Turns what stands after --source into a source of weights."""

from __future__ import annotations

from pathlib import Path

from provisioning.build_model.errors import SpecError
from provisioning.build_model.sources.base import ModelSource
from provisioning.build_model.sources.directory import DirectorySource
from provisioning.build_model.sources.embedded import PACKAGE, EmbeddedSource
from provisioning.build_model.sources.gguf.source import GGUFSource

SCHEMES = (
    "dir:PATH",
    "gguf:PATH",
    f"pypi:{PACKAGE}",
)


def open_source(spec: str) -> ModelSource:
    """The source that `spec` names; nothing is looked up yet.

    Raises `SpecError`, which lists the schemes, when `spec` is written as none of them.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise _spec_error(spec, "no known scheme" if not colon else "nothing follows the colon")
    if scheme == "dir":
        return DirectorySource(spec, Path(rest).expanduser())
    if scheme == "gguf":
        return GGUFSource(spec, Path(rest).expanduser())
    if scheme == "pypi":
        if rest != PACKAGE:
            raise _spec_error(spec, f"the only package known to hold a model is {PACKAGE}")
        return EmbeddedSource(spec)
    raise _spec_error(spec, f"unknown scheme {scheme!r}")


def _spec_error(spec: str, reason: str) -> SpecError:
    return SpecError(f"source {spec!r}: {reason}; write it as {', '.join(SCHEMES)}")
