"""`GET /health/live` (the process answers) and `GET /health/ready` (it takes requests)."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.response import Response

from appliance.api.documented import DOCUMENTED, Documented
from appliance.api.gate import OPEN
from appliance.service import Service, ServiceStatus


class Health(msgspec.Struct):
    """`live` is that the process answers; the others are what it is about."""

    status: Literal["live", "loading", "ready", "draining", "failed"]


@get(
    "/health/live",
    tags=["health"],
    opt={OPEN: True, DOCUMENTED: Documented(Health)},
    sync_to_thread=False,
)
def live() -> Health:
    """200 for as long as the process answers at all."""
    return Health("live")


@get(
    "/health/ready",
    tags=["health"],
    opt={OPEN: True, DOCUMENTED: Documented(Health, others={503: Health})},
    sync_to_thread=False,
)
def ready(service: NamedDependency[Service]) -> Response[Health]:
    """200 when requests are served, 503 while loading, draining or after the engine died."""
    status = 200 if service.status is ServiceStatus.READY else 503
    headers = {} if status == 200 else {"Retry-After": str(service.retry_after_s)}
    return Response(Health(service.status.value), status_code=status, headers=headers)
