"""What the knobs held before: a file in /run, where it is as short-lived as the knobs' values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import HostTuningError


@dataclass(frozen=True, slots=True)
class Remembered:
    """The place at `address` held `old` before it was set to `new`; None: there was nothing."""

    knob: str
    address: str
    old: str | None
    new: str


class Memory:
    """The remembered values in the order in which they were changed; every change is saved.

    Raises `HostTuningError` when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_address: dict[str, Remembered] = {}
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            for entry in entries:
                self._by_address[entry["address"]] = Remembered(**entry)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HostTuningError(f"{path} cannot be used: {error}; remove it") from error

    def __iter__(self) -> Iterator[Remembered]:
        return iter(list(self._by_address.values()))

    def get(self, address: str) -> Remembered | None:
        return self._by_address.get(address)

    def remember(self, one: Remembered) -> None:
        """Before the place is changed; what it held at the very first stays."""
        known = self._by_address.get(one.address)
        old = known.old if known else one.old
        self._by_address[one.address] = dataclasses.replace(one, old=old)
        self._save()

    def forget(self, one: Remembered) -> None:
        del self._by_address[one.address]
        self._save()

    def _save(self) -> None:
        try:
            if not self._by_address:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            entries = [dataclasses.asdict(one) for one in self._by_address.values()]
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            raise HostTuningError(f"{self._path} cannot be written: {error}") from error
