"""What the routes see of the appliance: whether it serves, under which name, and its completer."""

from __future__ import annotations

import enum
import math
import time

from appliance.chat.completer import Completer
from appliance.errors import (
    ApplianceError,
    EngineDeadError,
    ModelNotFoundError,
    NotReadyError,
)

# About as long as a start takes.
_START_S = 2


class ServiceStatus(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Service:
    """The appliance's state, shared by the composition root, which writes it, and the routes.

    Lives on the event loop's thread. `created` is when the process began, in Unix seconds.
    `max_messages` is how long a conversation may be.
    """

    def __init__(self, model_name: str, system_fingerprint: str, *, max_messages: int) -> None:
        self.max_messages = max_messages
        self.model_name = model_name
        self.system_fingerprint = system_fingerprint
        self.created = int(time.time())
        self.status = ServiceStatus.LOADING
        self.completer: Completer | None = None
        self.failure: ApplianceError | None = None
        self._drained_at = 0.0

    @property
    def retry_after_s(self) -> int:
        """When a client that is turned away may try again, in whole seconds, at least 1.

        While draining: when everything that runs has ended and the next start may answer.
        """
        if self.status is not ServiceStatus.DRAINING:
            return _START_S
        return max(0, math.ceil(self._drained_at - time.monotonic())) + _START_S

    def drain(self, grace_s: float) -> None:
        """No more requests; those that run have `grace_s` seconds. Idempotent."""
        if self.status not in (ServiceStatus.FAILED, ServiceStatus.DRAINING):
            self.status = ServiceStatus.DRAINING
            self._drained_at = time.monotonic() + grace_s

    def fail(self, error: ApplianceError) -> None:
        """Only a restart helps from now on; `error` is what every later request is told."""
        self.status = ServiceStatus.FAILED
        self.failure = error

    def completer_for(self, model: str) -> Completer:
        """The completer that serves `model`.

        Raises `ModelNotFoundError` for another model, `EngineDeadError` after a failure,
        `NotReadyError` while loading or draining.
        """
        if model != self.model_name:
            raise ModelNotFoundError(model, self.model_name)
        if self.failure is not None:
            raise EngineDeadError(str(self.failure))
        if self.status is not ServiceStatus.READY or self.completer is None:
            raise NotReadyError(f"the service is {self.status.value}", self.retry_after_s)
        return self.completer
