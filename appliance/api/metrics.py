"""`GET /metrics`: numbers for the people who run the service."""

from __future__ import annotations

from litestar import MediaType, get
from litestar.di import NamedDependency
from litestar.params import FromHeader
from litestar.response import Response

from appliance.api.documented import DOCUMENTED, Documented
from appliance.metrics import Metrics

_TEXT_TYPES = ("text/plain", "application/openmetrics-text")


@get(
    "/metrics",
    tags=["health"],
    media_type=MediaType.TEXT,
    opt={DOCUMENTED: Documented(None, text_types=_TEXT_TYPES)},
    sync_to_thread=False,
)
def show_metrics(
    metrics: NamedDependency[Metrics], accept: FromHeader[str] = ""
) -> Response[bytes]:
    """All metrics in Prometheus' text format, or OpenMetrics where the scraper asks for it."""
    text, content_type = metrics.render(accept)
    # As a header: to a media type the framework would add a second charset.
    return Response(text, headers={"Content-Type": content_type})
