"""The listening socket, own or handed over, and who must not be able to reach it."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping

from appliance.config import ServerConfig
from appliance.errors import BindError, ConfigError

_ON_MACHINE = (
    "make one with `qwen-appliance key add NAME`; or let everybody in with "
    "server.allow_no_key: true"
)
_IN_IMAGE = (
    "make one with `docker run --rm -v VOLUME:/data IMAGE key add NAME` and run the service with "
    "the same volume; or let everybody in with -e QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true"
)
# Where descriptors that are handed over begin: sd_listen_fds(3).
_FIRST_FD = 3


def listen(config: ServerConfig, env: Mapping[str, str]) -> socket.socket:
    """The socket that $LISTEN_FDS hands over if there is one, else one on the configured address.

    Connections that come while the service restarts wait in a socket that is its supervisor's.
    Raises `BindError`, and `ConfigError` for an address beyond this machine without an API key and
    when what is handed over is not one listening TCP socket.
    """
    handed_over = env.get("LISTEN_FDS", "0")
    if handed_over == "0" or env.get("LISTEN_PID") != str(os.getpid()):
        return _bound(config, env)
    listener = _handed_over() if handed_over == "1" else None
    if listener is None:
        expected = "expected one listening TCP socket; see qwen-appliance.socket"
        raise ConfigError("LISTEN_FDS", handed_over, expected, "environment")
    try:
        address = listener.getsockname()[0]
        check_exposure(config, address, "LISTEN_FDS", address, env)
    except ConfigError:
        listener.close()
        raise
    return listener


def _handed_over() -> socket.socket | None:
    """The first descriptor, if it is a listening TCP socket."""
    listener = socket.socket(fileno=_FIRST_FD)
    listener.set_inheritable(False)
    is_tcp = listener.family in (socket.AF_INET, socket.AF_INET6)
    if is_tcp and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return listener
    listener.close()
    return None


def _bound(config: ServerConfig, env: Mapping[str, str]) -> socket.socket:
    try:
        info = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = info[0]
        check_exposure(config, str(address[0]), "server.host", config.host, env)
        return socket.create_server(address[:2], family=family, backlog=128)
    # A name that cannot be a host's, such as "a..b", fails in its encoding.
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BindError(config.host, config.port, reason) from error


def check_exposure(
    config: ServerConfig, address: str, key: str, value: str, env: Mapping[str, str]
) -> None:
    """Raises `ConfigError`, which blames `value` of `key`, where others can come in unasked."""
    if config.api_keys_file is not None or config.allow_no_key:
        return
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        # What the Dockerfile sets: there the command is typed outside, and the key has to last.
        way = _IN_IMAGE if env.get("container") == "oci" else _ON_MACHINE
        raise ConfigError(
            key, value, f"others can reach this address, so it needs an API key: {way}"
        )


def url(listener: socket.socket) -> str:
    """Where clients of this machine's own find the listener, as `base_url` of OpenAI's clients."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
