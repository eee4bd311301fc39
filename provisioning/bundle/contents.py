"""`bundle.json`, the first file of a bundle: what else is in it, each with its checksum.

bundle.json
qwen-appliance/        the code
wheels/run/            what the service is made of, for every target
wheels/provision/      what Ansible is made of
model/NAME/            the model directory
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from provisioning.bundle.target import GLIBC, Target

CONTENTS = "bundle.json"
CODE = "qwen-appliance"
LOCKS = ("run", "provision")
MODEL = "model"
KIND = "qwen-appliance bundle"
FORMAT = 1
MAX_CONTENTS_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file; `sha256` in lower-case hex."""

    sha256: str
    size_bytes: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class TargetWheels:
    """The wheels of each lock, by file name, that one target installs."""

    target: Target
    wheels: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle says of itself. `model` is the directory's name below `model/`."""

    version: str
    model: str
    targets: tuple[TargetWheels, ...]
    files: dict[str, Entry]
    glibc: tuple[int, int] = GLIBC

    def to_json(self) -> bytes:
        """The file's bytes: the same contents give the same."""
        data = {"kind": KIND, "format": FORMAT, "contents": asdict(self)}
        return (json.dumps(data | {"sha256": _digest(data)}, indent=1) + "\n").encode()

    def total_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files.values())

    def for_target(self, target: Target) -> bool:
        """Whether there are wheels for it."""
        return any(each.target == target for each in self.targets)


def read_contents(text: bytes) -> Contents:
    """The other way round. Raises ValueError, its text what is wrong with the file."""
    try:
        data = json.loads(text)
    except ValueError:
        raise ValueError("is damaged") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ValueError("is of another kind")
    if data.get("format") != FORMAT:
        raise ValueError(
            f"is of format {data.get('format')!r}, this version reads {FORMAT}; use the code that "
            "is in the bundle"
        )
    if data.pop("sha256", None) != _digest(data):
        raise ValueError("is damaged")
    contents = _contents(data["contents"])
    for name in (*contents.files, contents.model):
        if not _is_plain(name) or name == CONTENTS:
            raise ValueError(f"names {name!r}, which no bundle has")
    for each in contents.targets:
        for lock in LOCKS:
            for wheel in each.wheels[lock]:
                if f"wheels/{lock}/{wheel}" not in contents.files:
                    raise ValueError(f"lacks {wheel}, which {each.target} needs")
    return contents


def _contents(data: dict[str, Any]) -> Contents:
    try:
        targets = tuple(
            TargetWheels(
                Target(**each["target"]),
                {lock: tuple(map(str, each["wheels"][lock])) for lock in LOCKS},
            )
            for each in data["targets"]
        )
        files = {str(name): Entry(**entry) for name, entry in data["files"].items()}
        major, minor = data["glibc"]
        return Contents(
            str(data["version"]), str(data["model"]), targets, files, (int(major), int(minor))
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"is not whole ({error!r})") from error


def _is_plain(name: str) -> bool:
    """No name that leaves the directory, or that a terminal would act on."""
    return name.isprintable() and not {"", ".", ".."} & set(name.split("/"))


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
