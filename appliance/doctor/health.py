"""What answers at the service's address."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from appliance.config import ServerConfig

_TIMEOUT_S = 3.0
_LARGEST_BYTES = 4096
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound
_STATUSES = ("loading", "ready", "draining", "failed")


@dataclass(frozen=True, slots=True)
class Health:
    """`kind`: `ours` (then `status` is what it said of itself), `other` (something else listens),
    `silent` (a connection, but no answer), `nobody`, or `not asked`; `detail` says more."""

    kind: str
    status: str | None
    detail: str


def ask(server: ServerConfig) -> Health:
    """GET /health/ready, within three seconds."""
    if server.port == 0:
        return Health("not asked", None, "server.port is 0, any free one")
    try:
        connection = HTTPConnection(_ANY.get(server.host, server.host), server.port, _TIMEOUT_S)
        connection.connect()
    # A name that cannot be a host's fails in its encoding, if not before.
    except (OSError, UnicodeError, HTTPException) as error:
        return Health("nobody", None, _words(error))
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read(_LARGEST_BYTES)
    except (OSError, HTTPException) as error:
        kind = "silent" if isinstance(error, TimeoutError) else "other"
        return Health(kind, None, _words(error))
    finally:
        connection.close()
    status = _status(body)
    if status is None:
        return Health("other", None, f"answers /health/ready with {answer.status}, but not as ours")
    return Health("ours", status, f"/health/ready answers {answer.status} {status}")


def free_or_why(server: ServerConfig) -> str | None:
    """None if the service could bind its address; otherwise why not. Nothing listens meanwhile, so
    a service that starts at this moment is not in the way."""
    try:
        found = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        return _words(error)
    return None


def _status(body: bytes) -> str | None:
    try:
        told = json.loads(body)
    except ValueError:
        return None
    status = told.get("status") if isinstance(told, dict) else None
    return status if status in _STATUSES else None


def _words(error: Exception) -> str:
    """In one line, though it may quote what somebody else's server said."""
    told = getattr(error, "strerror", None) or str(error)
    return " ".join(told.split()) or type(error).__name__
