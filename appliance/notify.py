"""What the service tells its supervisor: sd_notify(3), in the standard library.

A message is lines of NAME=VALUE in one datagram to the Unix socket that $NOTIFY_SOCKET names.
Without that variable nobody listens and nothing is sent. Standard library only.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

_log = logging.getLogger(__name__)

# The receiver empties its queue within microseconds; one that does not is broken, and must not
# hold up the service.
_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Sends messages to `address`: a path, an abstract name behind an `@`, or None for nobody.

    `watchdog_s` is how often the supervisor wants to hear a sign of life at least, None if it does
    not. A message that cannot be sent is logged, once, and never stops the service.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s if address else None
        self._address = address
        self._has_warned = False

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Notifier:
        """As $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID say (sd_watchdog_enabled(3))."""
        is_for_us = env.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
        text = env.get("WATCHDOG_USEC", "") if is_for_us else ""
        if text and not (text.isascii() and text.isdigit() and int(text) > 0):
            _log.warning("no watchdog: WATCHDOG_USEC = %r is no positive whole number", text)
            text = ""
        return cls(env.get("NOTIFY_SOCKET") or None, int(text) / 1e6 if text else None)

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def ready(self) -> None:
        """Requests are served from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is on its way out, and wants no more requests."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """A sign of life; the supervisor restarts a service that gives none for `watchdog_s`."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for people, which `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def extend_timeout(self, seconds: float) -> None:
        """Starting or stopping goes on, and may take `seconds` from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A name that starts with a zero byte is an abstract one (unix(7)).
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                # Not connected first: the service's sandbox forbids connect(2).
                sender.sendto(message.encode(), name)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("NOTIFY_SOCKET %s does not take messages: %s", self._address, error)
