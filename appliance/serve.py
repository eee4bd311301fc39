"""`qwen-appliance serve`: the application on its socket, signals, an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path

import uvicorn

from appliance.app import Appliance, asgi
from appliance.backends.base import Backend
from appliance.config import Config
from appliance.connection import connection_class
from appliance.errors import ApplianceError
from appliance.listener import listen, url
from appliance.notify import Notifier
from appliance.supervision import Supervision

_log = logging.getLogger(__name__)


def serve(config: Config, backend: Backend | None = None) -> int:
    """Serve until a signal or a failure; returns the exit code. Only for the main thread.

    `backend` replaces the one that `config` names. Everything that can be known to be wrong is
    raised before the model is loaded: `ConfigError`, `ModelDirError`, `BindError`. A failure later
    is logged and its exit code returned.
    """
    # Its two or three lines, the ready line among them, are said at any log level.
    _log.setLevel(logging.INFO)
    appliance = Appliance(config, backend)
    with listen(config.server, os.environ) as listener:
        server = _Server(appliance, config, url(listener))
        appliance.on_ready = server.ready
        appliance.on_failure = server.fail
        server.run(sockets=[listener])
    return server.exit_code


def uvicorn_config(appliance: Appliance, config: Config) -> uvicorn.Config:
    """How the appliance is served over HTTP. Raises `ConfigError`."""
    return uvicorn.Config(
        asgi(appliance, config),
        http=connection_class(config.server),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=math.ceil(config.server.idle_timeout_s),
        # Aborting tells every client, which uvicorn's own limit would not; it comes second.
        timeout_graceful_shutdown=int(config.server.shutdown_grace_s) + 10,
    )


class _Server(uvicorn.Server):
    """Uvicorn, that drains on SIGTERM and ends with our exit codes instead of by the signal.

    First SIGTERM or SIGINT: stop accepting, let running answers end, abort what runs longer than
    `server.shutdown_grace_s`. Second one: abort now. SIGHUP: read the API keys again.
    """

    def __init__(self, appliance: Appliance, config: Config, url: str) -> None:
        super().__init__(uvicorn_config(appliance, config))
        self._appliance = appliance
        self._url = url
        self._supervision = Supervision(appliance, Notifier.from_environment(os.environ))
        self._grace_s = config.server.shutdown_grace_s
        self._tasks: set[asyncio.Task[None]] = set()
        self.exit_code = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        key_ring = self._appliance.key_ring
        # From a terminal, SIGHUP says that it was closed, and whoever runs there has to end.
        if key_ring is not None and not has_terminal():
            loop.add_signal_handler(signal.SIGHUP, key_ring.reload)
        yield

    async def main_loop(self) -> None:
        self._spawn(self._supervision.run())
        await super().main_loop()

    def ready(self, text: str) -> None:
        """The first real token was answered; `text` says what serves."""
        _log.info("ready on %s after %.2f s: %s", self._url, _since_start_s(), text)
        self._supervision.ready(self._url)

    def fail(self, error: ApplianceError) -> None:
        """Loading failed or the engine died: say so, and end with the error's exit code."""
        _log.error("%s", error)
        self.exit_code = error.exit_code
        self._drain(grace_s=0)

    def _on_signal(self) -> None:
        self._drain(grace_s=0 if self.should_exit else self._grace_s)

    def _drain(self, grace_s: float) -> None:
        self._appliance.stop_accepting()
        self._supervision.stopping(grace_s)
        self.should_exit = True
        self._spawn(self._close_after(grace_s))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside; what is left of it is cancelled with the event loop."""
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def _close_after(self, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        await self._appliance.close()


def has_terminal() -> bool:
    """Whether this process belongs to a terminal, whose closing it is told by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _since_start_s() -> float:
    """Seconds since this process began, to a hundredth (proc(5), `starttime`).

    A script that replaces itself by the service (exec) keeps its process, so its time counts too.
    """
    behind_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start_s = int(behind_name[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - start_s
