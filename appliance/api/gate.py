"""The gate that every route stands behind, unless it says that it is open to all."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from appliance.access.key_ring import KeyRing
from appliance.access.rate_limit import RateLimit
from appliance.errors import InvalidAPIKeyError

OPEN = "open"
"""The key under which a route's `opt` says that it asks for no API key."""

LIMITED = "/v1/"
"""What the paths begin with whose requests are counted."""

_NOBODY = ""


class Gate:
    """A guard of the framework's: it runs before the request's body is read.

    Without a `key_ring` no key is asked for, and all share one rate.
    """

    def __init__(self, key_ring: KeyRing | None, rate_limit: RateLimit | None) -> None:
        self._key_ring = key_ring
        self._rate_limit = rate_limit

    async def check(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """Raises `InvalidAPIKeyError`, and `RateLimitError` for a route below `/v1/`."""
        if handler.opt.get(OPEN):
            return
        name = _NOBODY if self._key_ring is None else self._name_of(connection, self._key_ring)
        if self._rate_limit is not None and connection.scope["path"].startswith(LIMITED):
            self._rate_limit.take(name)

    def _name_of(self, connection: ASGIConnection[Any, Any, Any, Any], key_ring: KeyRing) -> str:
        scheme, _, key = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise InvalidAPIKeyError(
                "this service needs an API key, in the header `Authorization: Bearer KEY`"
            )
        name = key_ring.name_of(key.strip())
        if name is None:
            raise InvalidAPIKeyError("the API key is not known here; ask who runs this service")
        return name
