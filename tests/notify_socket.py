"""The supervisor's end of sd_notify: a real datagram socket."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType


class NotifySocket:
    """A context manager: what is sent to `address` arrives in `messages`, in its order.

    `address` is a path, or an abstract name behind an `@`. Until `listen` is called nobody reads.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader = threading.Thread(target=self._read, name="supervisor")

    def __enter__(self) -> NotifySocket:
        is_abstract = self.address.startswith("@")
        self._socket.bind("\0" + self.address[1:] if is_abstract else self.address)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._reader.is_alive():
            self._socket.shutdown(socket.SHUT_RD)
            self._reader.join()
        self._socket.close()

    def listen(self) -> NotifySocket:
        """Read from now on, in a thread: a socket's queue holds some ten messages."""
        self._reader.start()
        return self

    def wait_for(self, *messages: str, timeout_s: float = 20.0) -> None:
        """Wait until all of these came in this order, others between them; fails if they do not."""
        deadline = time.monotonic() + timeout_s
        while not self._holds(messages):
            assert time.monotonic() < deadline, f"not {messages} but {self.messages}"
            time.sleep(0.002)

    def _holds(self, messages: tuple[str, ...]) -> bool:
        came = iter(list(self.messages))
        return all(message in came for message in messages)

    def _read(self) -> None:
        # Shut down, the socket answers nothing at once; a message is never empty.
        while data := self._socket.recv(65536):
            self.messages.append(data.decode())
