"""What can go wrong while a model directory is built. All are `ApplianceError`s.

BuildError
├── SpecError             the source is not written as one of the known schemes
├── SourceError           the source cannot be reached, read or converted
│   ├── UnreachableError  the hub does not answer; the text names the ways out
│   ├── NoSuchModelError
│   ├── GatedModelError
│   └── UnsupportedModelError   not a causal language model, or a type nothing here can read
├── DiskError             too little room (needed and free are named), or not writable
├── ConversionError       export, compression or the IR edit failed
└── QualityGateError      converted, but not good enough to publish
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class BuildError(ApplianceError):
    """Base of the build's errors; the old model directory is untouched whenever one is raised."""

    exit_code = 10


class SpecError(BuildError):
    """A source that is not written as one of the known schemes."""

    exit_code = 2


class SourceError(BuildError):
    """A source that cannot be reached, read or converted."""

    exit_code = 11


class UnreachableError(SourceError):
    """A hub that does not answer."""

    exit_code = 12


class NoSuchModelError(SourceError):
    """Nothing of that name or revision there."""


class GatedModelError(SourceError):
    """A model whose terms must be accepted first, or that needs a token."""


class UnsupportedModelError(SourceError):
    """Not a causal language model, or in a form nothing here can read."""


class DiskError(BuildError):
    """Too little room, or no permission to write."""

    exit_code = 13


class ConversionError(BuildError):
    """Export, compression or the IR edit failed; the cause is chained."""

    exit_code = 14


class QualityGateError(BuildError):
    """The converted model departs too far from the original; nothing was published."""

    exit_code = 15
