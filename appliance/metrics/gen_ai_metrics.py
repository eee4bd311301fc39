"""The metrics that OpenTelemetry's conventions define for a model server, in Prometheus' spelling.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics: dots become underscores, the unit
is part of the name. Buckets are ours: the conventions' end at 10 s for the first token, which a
small box exceeds.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from appliance.metrics import buckets

OPERATIONS = ("chat", "text_completion")
"""`gen_ai.operation.name` of the routes that generate."""

_PROVIDER = "qwen_appliance"
_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class GenAIMetrics:
    """Three histograms by operation. `model` is the served model's name.

    What clients call a model is not used: a label with values from outside has no bound.
    """

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to the last byte of its answer; error_type is empty for a success",
            [*_LABELS, "error_type"],
            buckets=buckets.REQUEST_S,
            registry=registry,
        )
        first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first text written; streams only",
            _LABELS,
            buckets=buckets.FIRST_TOKEN_S,
            registry=registry,
        )
        output_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "(last - first token's time) / (tokens - 1), one value for each complete answer",
            _LABELS,
            buckets=buckets.TOKEN_S,
            registry=registry,
        )
        self._model = model
        self.time_to_first_token = {o: first_token.labels(*self._values(o)) for o in OPERATIONS}
        self.time_per_output_token = {o: output_token.labels(*self._values(o)) for o in OPERATIONS}
        for operation in OPERATIONS:
            self._duration.labels(*self._values(operation), "")

    def request_ended(self, operation: str, seconds: float, error_type: str) -> None:
        """One request is over; `error_type` is the error's code, empty for none."""
        self._duration.labels(*self._values(operation), error_type).observe(seconds)

    def _values(self, operation: str) -> tuple[str, str, str]:
        return operation, _PROVIDER, self._model
