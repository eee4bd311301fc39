"""The API keys in force: read from their file, and read again when it changes."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from appliance.access.key_file import KeyRecord, digest_of, read_keys
from appliance.errors import ConfigError

_log = logging.getLogger(__name__)
_SETTING = "server.api_keys_file"
_LOOK_EVERY_S = 1.0


class KeyRing:
    """Knows which key is whose. Lives on the event loop's thread.

    The file is looked at once a second at most, when a key is asked for. What is wrong with it then
    is logged: a file with a mistake in it changes nothing, one that is gone lets nobody in.

    Raises `ConfigError` when the file cannot be read, or holds no key, from the beginning.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._seen = self._signature()
        self._records: list[KeyRecord] = []
        try:
            self._records = read_keys(path)
        except (OSError, ValueError) as error:
            raise ConfigError(_SETTING, str(path), f"cannot be used: {_words(error)}") from None
        if not self._records:
            raise ConfigError(
                _SETTING, str(path), "holds no key; make one: `qwen-appliance key add NAME`"
            )

    def __len__(self) -> int:
        return len(self._records)

    def name_of(self, key: str) -> str | None:
        """Whose key that is; None: nobody's. Takes as long for a wrong key as for a right one."""
        if self._clock() - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = self._clock()
            if self._signature() != self._seen:
                self.reload()
        digest, name = digest_of(key), None
        for record in self._records:
            if hmac.compare_digest(record.digest, digest):
                name = record.name
        return name

    def reload(self) -> None:
        """Read the file again, and log what came of it."""
        self._seen = self._signature()
        try:
            self._records = read_keys(self._path)
        except FileNotFoundError:
            self._records = []
            _log.error("API keys: %s is gone; nobody may come in until it is back", self._path)
        except (OSError, ValueError) as error:
            _log.error(
                "API keys: %s cannot be used, the keys read before stay in force: %s",
                self._path,
                _words(error),
            )
        else:
            _log.info("API keys: read %d from %s", len(self._records), self._path)

    def _signature(self) -> tuple[int, ...] | None:
        """What differs after any change; None: there is no file to see."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _words(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
