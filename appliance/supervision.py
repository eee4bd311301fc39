"""Keeps the supervisor informed: loading, ready, alive, draining.

A sign of life needs both threads: this task runs on the event loop, and waits until the engine
thread has come by. A pass that never ends, like a blocked event loop, leaves the supervisor without
one, and it restarts the service.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from appliance.app import Appliance
from appliance.notify import Notifier
from appliance.service import ServiceStatus

# Four a watchdog's time: a step may take three quarters of it.
_SIGNS_PER_WATCHDOG = 4
_STATUS_EVERY_S = 5.0
_LOADING_EVERY_S = 1.0
_LOADING_EXTENSION_S = 30.0
_LOADING_LIMIT_S = 600.0
# What the end may take beyond the time that answers have: uvicorn's limit, and the backend's end.
_STOP_MARGIN_S = 15.0


class Supervision:
    """Tells `notifier` about `appliance`; all its methods are for the event loop's thread.

    While the model loads it asks for more time again and again, but not after `loading_limit_s`: a
    load that hangs must end, too.
    """

    def __init__(
        self,
        appliance: Appliance,
        notifier: Notifier,
        *,
        loading_limit_s: float = _LOADING_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._appliance = appliance
        self._notifier = notifier
        self._url = ""
        self._told = ""
        self._clock = clock
        self._loaded_until = clock() + loading_limit_s

    async def run(self) -> None:
        """Report until cancelled."""
        while self._notifier.is_heard:
            await self._report()
            await asyncio.sleep(self._interval_s())

    def ready(self, url: str) -> None:
        """The appliance serves on `url`."""
        self._url = url
        self._notifier.ready()
        self._tell(self._state())

    def stopping(self, grace_s: float) -> None:
        """No more requests; what runs has `grace_s` seconds."""
        self._notifier.stopping()
        self._notifier.extend_timeout(grace_s + _STOP_MARGIN_S)
        self._tell(self._state())

    async def _report(self) -> None:
        self._tell(self._state())
        if self._appliance.service.status is ServiceStatus.LOADING:
            if self._clock() < self._loaded_until:
                self._notifier.extend_timeout(_LOADING_EXTENSION_S)
        elif self._appliance.engine is not None:
            await self._appliance.engine.turn()
            self._notifier.alive()

    def _interval_s(self) -> float:
        is_loading = self._appliance.service.status is ServiceStatus.LOADING
        every_s = _LOADING_EVERY_S if is_loading else _STATUS_EVERY_S
        # Right after loading, too: the watchdog's time begins with the word that it is ready.
        return min(every_s, (self._notifier.watchdog_s or math.inf) / _SIGNS_PER_WATCHDOG)

    def _state(self) -> str:
        service, engine = self._appliance.service, self._appliance.engine
        if service.status is ServiceStatus.FAILED:
            return f"failed: {service.failure}"
        if service.status is ServiceStatus.LOADING:
            return f"{'warming up' if engine else 'loading'} {service.model_name}"
        under_way = f"{engine.num_open if engine else 0} answers under way"
        if service.status is ServiceStatus.READY:
            return f"{service.model_name} on {self._url}; {under_way}"
        return f"draining; {under_way}"

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._notifier.status(text)
