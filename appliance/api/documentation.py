"""`GET /docs`: the OpenAPI document, made of the routes and of what decodes their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
from litestar import MediaType, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from appliance.api.gate import OPEN
from appliance.api.operation import Operation, Schema
from appliance.api.schemas import ErrorBody

_SCHEME = "APIKey"
_PREFIX = "#/components/schemas/"
_TAGS = {
    "generation": "The model answers.",
    "tokens": "Text to token ids and back.",
    "models": "The model that is served.",
    "health": "For those who run the service.",
}


class Documentation:
    """The document of `routes`, whose every one has a `Documented` in its `opt`.

    `model` is the name that is served; `needs_key` and `is_limited` say whether the gate asks for
    API keys and counts requests. The document is made when it is first asked for.
    """

    def __init__(
        self,
        routes: Sequence[HTTPRouteHandler],
        version: str,
        model: str,
        *,
        needs_key: bool,
        is_limited: bool,
    ) -> None:
        self._routes = routes
        self._version = version
        self._model = model
        self._needs_key = needs_key
        self._is_limited = is_limited

    @cached_property
    def encoded(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document())

    def document(self) -> dict[str, Any]:
        """OpenAPI 3.1."""
        operations = [
            Operation(route, self._model, needs_key=self._needs_key, is_limited=self._is_limited)
            for route in self._routes
        ]
        kinds = list({kind: None for o in operations for kind in o.structs} | {ErrorBody: None})
        references, schemas = msgspec.json.schema_components(kinds, ref_template=_PREFIX + "{name}")
        reference_to = dict(zip(kinds, references, strict=True))
        for operation in operations:
            operation.describe_fields(schemas, reference_to)
        paths: dict[str, dict[str, Schema]] = {}
        for operation in operations:
            paths.setdefault(operation.path, {})[operation.method] = operation.document(
                reference_to
            )
        components: dict[str, Any] = {"schemas": dict(sorted(schemas.items()))}
        if self._needs_key:
            components["securitySchemes"] = {
                _SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`Authorization: Bearer KEY`",
                }
            }
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "qwen-appliance",
                "version": self._version,
                "description": "An OpenAI-compatible service for one small language model.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": n, "description": d} for n, d in _TAGS.items()],
            "paths": paths,
            "components": components,
            **({"security": [{_SCHEME: []}]} if self._needs_key else {}),
        }

    def route(self) -> HTTPRouteHandler:
        """The route that shows it; open to all."""

        @get(["/docs", "/docs/openapi.json"], opt={OPEN: True}, sync_to_thread=False)
        def show_documentation() -> Response[bytes]:
            """The OpenAPI document."""
            return Response(self.encoded, media_type=MediaType.JSON)

        return show_documentation
