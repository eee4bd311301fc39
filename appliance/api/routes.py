"""All routes, in the order of the README's table."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from appliance.api.chat_completions import create_chat_completion
from appliance.api.completions import create_completion
from appliance.api.health import live, ready
from appliance.api.metrics import show_metrics
from appliance.api.models import get_model, list_models
from appliance.api.responses import create_response
from appliance.api.tokens import detokenize, tokenize

ROUTES: tuple[HTTPRouteHandler, ...] = (
    create_chat_completion,
    create_completion,
    create_response,
    tokenize,
    detokenize,
    list_models,
    get_model,
    live,
    ready,
    show_metrics,
)
