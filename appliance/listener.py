"""The listening socket, and who must not be able to reach it."""

from __future__ import annotations

import ipaddress
import socket

from appliance.config import ServerConfig
from appliance.errors import BindError, ConfigError


def listen(config: ServerConfig) -> socket.socket:
    """A listening socket on the configured address.

    Raises `BindError`, and `ConfigError` for an address beyond this machine without an API key.
    """
    try:
        info = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = info[0]
        _check_exposure(config, str(address[0]))
        return socket.create_server(address[:2], family=family, backlog=128)
    # A name that cannot be a host's, such as "a..b", fails in its encoding.
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BindError(config.host, config.port, reason) from error


def _check_exposure(config: ServerConfig, address: str) -> None:
    if config.api_keys_file is not None or config.allow_no_key:
        return
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise ConfigError(
            "server.host",
            config.host,
            "others can reach this address, so it needs an API key: make one with "
            "`qwen-appliance key add NAME`; or let everybody in with server.allow_no_key: true",
        )


def url(listener: socket.socket) -> str:
    """Where clients of this machine's own find the listener, as `base_url` of OpenAI's clients."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
