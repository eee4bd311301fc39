"""The composition root: configuration in, ASGI application out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp

from appliance import __version__, startup
from appliance.access.key_ring import KeyRing
from appliance.access.rate_limit import RateLimit
from appliance.api.body import JSONRequest
from appliance.api.cors import cors_config
from appliance.api.documentation import Documentation
from appliance.api.exceptions import EXCEPTION_HANDLERS
from appliance.api.gate import Gate
from appliance.api.request_id import RequestIds
from appliance.api.request_meter import RequestMeter
from appliance.api.routes import ROUTES
from appliance.backends.base import Backend
from appliance.config import Config
from appliance.engine.engine import Engine
from appliance.errors import ApplianceError, BackendError, ConfigError, NotReadyError
from appliance.metrics import Metrics
from appliance.model_dir import read_manifest, verify_files
from appliance.service import Service, ServiceStatus

_log = logging.getLogger(__name__)


class Appliance:
    """Owns the engine and the service's state, from the first byte read to the last answer sent.

    `on_ready` is called with one line for people when the first real token was answered,
    `on_failure` when loading failed or the engine died; both on the event loop's thread.
    """

    def __init__(self, config: Config, backend: Backend | None = None) -> None:
        if config.model.dir is None:
            raise ConfigError("model.dir", None, "needed; give --model DIR")
        self._config = config
        self._backend = backend
        self._manifest = read_manifest(config.model.dir)
        if backend is None:
            verify_files(config.model.dir, self._manifest, checksums=False)
        self._engine: Engine | None = None
        keys = config.server.api_keys_file
        self.key_ring = None if keys is None else KeyRing(keys)
        self.service = Service(
            config.model.name or self._manifest.name,
            startup.system_fingerprint(self._manifest),
            max_messages=config.server.max_messages,
        )
        self.metrics = Metrics(
            model=self.service.model_name,
            build=startup.build_info(config, self._manifest, self.service.model_name),
            statuses=tuple(status.value for status in ServiceStatus),
            current_status=lambda: self.service.status.value,
        )
        self.on_ready: Callable[[str], None] = _log.info
        self.on_failure: Callable[[ApplianceError], None] = lambda error: _log.error("%s", error)

    @property
    def engine(self) -> Engine | None:
        """The engine; None until the model is loaded."""
        return self._engine

    async def start(self) -> None:
        """Load, start the engine, answer one token, then serve. Raises nothing: see `on_failure`.

        Told to stop meanwhile, it gives up without a word.
        """
        try:
            await self._start()
        except NotReadyError:
            assert self.service.status is not ServiceStatus.LOADING  # closed while it warmed up
        except ApplianceError as error:
            self._fail(error)
        # Nobody waits for this before the end: untold, the service would load for ever.
        except Exception as error:
            _log.exception("loading failed")
            self._fail(BackendError(f"loading failed: {type(error).__name__}: {error}"))

    async def _start(self) -> None:
        started = time.perf_counter()
        loaded = await asyncio.to_thread(startup.load, self._config, self._manifest, self._backend)
        load_s = time.perf_counter() - started
        if self.service.status is not ServiceStatus.LOADING:
            loaded.backend.runner.close()
            return
        settings = self._config.engine
        engine = self._engine = Engine(
            loaded.backend,
            prefill_chunk=settings.prefill_chunk,
            prefill_chunk_busy=settings.prefill_chunk_busy,
            max_draft_tokens=settings.max_draft_tokens if settings.prompt_lookup else 0,
            max_waiting=settings.max_waiting,
        )
        engine.on_death = self._fail
        engine.start()
        warm_up_s = await startup.warm_up(engine, self._manifest)
        if self.service.status is not ServiceStatus.LOADING:
            return
        engine.record_to(self.metrics.engine)
        self.service.completer = startup.create_completer(
            loaded, engine, self._config, self._manifest, self.metrics
        )
        self.service.status = ServiceStatus.READY
        self.on_ready(
            f"{self.service.model_name}, {loaded.backend.description}; "
            f"load {load_s:.2f} s (model {loaded.backend_s:.2f}, tokenizer "
            f"{loaded.tokenizer_s:.2f}), warm-up {warm_up_s:.2f} s"
        )

    def stop_accepting(self) -> None:
        """Refuse new requests; those that run go on. Idempotent."""
        self.service.drain(self._config.server.shutdown_grace_s)
        if self._engine is not None:
            self._engine.stop_accepting(self.service.retry_after_s)

    async def close(self) -> None:
        """Abort what still runs, which its client is told, and end the engine. Idempotent."""
        self.stop_accepting()
        if self._engine is not None:
            await self._engine.close()

    def _fail(self, error: ApplianceError) -> None:
        if self.service.status is ServiceStatus.FAILED:
            return  # the engine died while it warmed up: told already
        self.service.fail(error)
        self.on_failure(error)


def create_app(config: Config, backend: Backend | None = None) -> ASGIApp:
    """The ASGI application; loading begins with its lifespan.

    `backend` replaces the one that `config` names. Raises `ConfigError`, `ModelDirError`.
    """
    return asgi(Appliance(config, backend), config)


def asgi(appliance: Appliance, config: Config) -> ASGIApp:
    """The routes around an appliance, whose life follows the application's, every request timed."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        # Requests are answered from the first moment on: 503 while this task is not done.
        starting = asyncio.create_task(appliance.start())
        try:
            yield
        finally:
            await starting
            await appliance.close()

    server = config.server
    per_minute = server.requests_per_minute
    gate = Gate(appliance.key_ring, RateLimit(per_minute) if per_minute else None)
    documentation = Documentation(
        ROUTES,
        __version__,
        appliance.service.model_name,
        needs_key=appliance.key_ring is not None,
        is_limited=per_minute is not None,
    )
    routes = Litestar(
        route_handlers=[*ROUTES, documentation.route()],
        guards=[gate.check],
        cors_config=cors_config(server.cors_origins),
        request_class=JSONRequest,
        dependencies={
            "service": Provide(lambda: appliance.service, sync_to_thread=False),
            "metrics": Provide(lambda: appliance.metrics, sync_to_thread=False),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[lifespan],
        request_max_body_size=server.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )
    return RequestIds(RequestMeter(routes, appliance.metrics))
