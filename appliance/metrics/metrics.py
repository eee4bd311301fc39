"""All metrics of one service, in a registry of their own, and their text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from appliance.metrics.engine_metrics import EngineMetrics
from appliance.metrics.gen_ai_metrics import GenAIMetrics
from appliance.metrics.http_metrics import HTTPMetrics
from appliance.metrics.process_metrics import ProcessMetrics

# A second series for every counter and histogram, with the time it was made: nobody asked for it.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Everything `/metrics` shows, from the first moment on: what has not happened yet is 0.

    `build` describes what runs; `current_status` returns one of `statuses`.
    """

    def __init__(
        self,
        *,
        model: str,
        build: Mapping[str, str],
        statuses: tuple[str, ...],
        current_status: Callable[[], str],
    ) -> None:
        self.registry = CollectorRegistry()
        self.gen_ai = GenAIMetrics(self.registry, model)
        self.http = HTTPMetrics(self.registry)
        self.engine = EngineMetrics(self.registry)
        ProcessMetrics(self.registry, build, statuses, current_status)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Text and its content type: OpenMetrics where `accept` asks for it, else Prometheus'."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
