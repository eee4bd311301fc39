"""Which web pages browsers let call this service."""

from __future__ import annotations

import re
from collections.abc import Sequence

from litestar.config.cors import CORSConfig

from appliance.errors import ConfigError

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s*]+")


def cors_config(origins: Sequence[str]) -> CORSConfig | None:
    """For pages of these origins; None without any. Raises `ConfigError` for what is no origin."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                "server.cors_origins",
                origin,
                "expected an origin as browsers send it, such as http://localhost:3000, or *",
            )
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        expose_headers=["Retry-After", "X-Request-Id"],
    )
