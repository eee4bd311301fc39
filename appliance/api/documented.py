"""What a route tells of itself for the OpenAPI document, beyond its path and its body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from appliance import errors
from appliance.api.parameters import Parameter

DOCUMENTED = "documented"
"""The key under which a route's `opt` holds its `Documented`."""

SERVED = (errors.ModelNotFoundError, errors.NotReadyError, errors.EngineDeadError)
"""What every route can raise that needs the model."""

GENERATES = (
    *SERVED,
    errors.ContextLengthExceededError,
    errors.QueueFullError,
    errors.DeadlineExceededError,
    errors.BackendError,
)
"""What every route can raise that has the model answer."""


@dataclass(frozen=True, slots=True)
class Documented:
    """One route.

    `answer` is the body of status 200, None for text of one of `text_types`; `events` are what
    the data of each event may hold where the answer may be a stream instead. Where they have tags,
    those are the events' names, and errors are among them. `errors` are those
    of `exceptions.ANSWERS` that only some routes raise; what the gate, the body or a bug of ours
    brings is added by itself. `others` are bodies of further statuses that are no errors in that
    sense. `parameters` say more of the request's fields; `examples`, by their names, are bodies to
    try the route with, but for `model`.
    """

    answer: type[msgspec.Struct] | None
    text_types: tuple[str, ...] = ()
    events: tuple[type[msgspec.Struct], ...] = ()
    errors: tuple[type[errors.ApplianceError], ...] = ()
    others: Mapping[int, type[msgspec.Struct]] = field(default_factory=lambda: MappingProxyType({}))
    parameters: tuple[Parameter, ...] = ()
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
