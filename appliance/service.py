"""What the routes see of the appliance: whether it serves, under which name, and its completer."""

from __future__ import annotations

import enum
import time

from appliance.chat.completer import Completer
from appliance.errors import (
    ApplianceError,
    EngineDeadError,
    ModelNotFoundError,
    NotReadyError,
)


class ServiceStatus(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Service:
    """The appliance's state, shared by the composition root, which writes it, and the routes.

    Lives on the event loop's thread. `created` is when the process began, in Unix seconds.
    """

    def __init__(self, model_name: str, system_fingerprint: str) -> None:
        self.model_name = model_name
        self.system_fingerprint = system_fingerprint
        self.created = int(time.time())
        self.status = ServiceStatus.LOADING
        self.completer: Completer | None = None
        self.failure: ApplianceError | None = None

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
            raise NotReadyError(f"the service is {self.status.value}", retry_after_s=2)
        return self.completer
