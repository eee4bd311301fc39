"""What came in over HTTP and how it was answered."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class HTTPMetrics:
    """Counters by route; `route` is a route's pattern, never a path that a client made up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._responses = Counter(
            "qwen_appliance_http_responses_total",
            "Responses by route and status; 499: the client left before there was one",
            ["route", "status"],
            registry=registry,
        )
        self._rejected = Counter(
            "qwen_appliance_requests_rejected_total",
            "Requests for an answer that were refused before anything was computed, by error code",
            ["reason"],
            registry=registry,
        )

    def expect_reasons(self, reasons: set[str]) -> None:
        """Let `reasons` show as 0 until they occur."""
        for reason in reasons:
            self._rejected.labels(reason)

    def responded(self, route: str, status: int) -> None:
        self._responses.labels(route, str(status)).inc()

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()
