"""Numbers for the people who run the service; knows Prometheus and nothing of the rest of it."""

from __future__ import annotations

from appliance.metrics.engine_metrics import EngineMetrics
from appliance.metrics.gen_ai_metrics import GenAIMetrics
from appliance.metrics.http_metrics import HTTPMetrics
from appliance.metrics.metrics import Metrics

__all__ = ["EngineMetrics", "GenAIMetrics", "HTTPMetrics", "Metrics"]
