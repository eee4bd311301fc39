"""`GET /docs`: the OpenAPI document."""

from __future__ import annotations

from litestar import Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from appliance.api.gate import OPEN

_SCHEME = "APIKey"


def openapi_config(version: str, *, needs_key: bool) -> OpenAPIConfig:
    """What the document says of the service as a whole; it is there for everybody to read."""
    scheme = SecurityScheme(
        type="http", scheme="bearer", description="`Authorization: Bearer KEY`, but for /health/*"
    )
    return OpenAPIConfig(
        title="qwen-appliance",
        version=version,
        openapi_router=Router(
            "/docs", route_handlers=[], include_in_schema=False, opt={OPEN: True}
        ),
        # The document alone: the pages of the framework load scripts from elsewhere.
        render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        components=Components(security_schemes={_SCHEME: scheme} if needs_key else None),
        security=[{_SCHEME: []}] if needs_key else None,
    )
