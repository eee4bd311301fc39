"""On the box: what is there of the appliance, as JSON. Changes nothing; standard library only.

`look.py JSON`, of where things are: `__box_places` in `vars/main.yml`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PENDING = "upgrade.json"
SERVED = "provisioned.json"


def look(wanted: dict[str, Any], root: Path = Path("/")) -> dict[str, Any]:
    """`files`: path to "SHA256 MODE UID GID", None: not there. `release`: what the link means."""

    def at(path: str) -> Path:
        return root / path.lstrip("/")

    base, state = at(wanted["base"]), at(wanted["state_dir"])
    link = base / "venv"
    return {
        "files": {path: signature(at(path)) for path in wanted["files"]},
        "release": Path(os.readlink(link)).parent.name if link.is_symlink() else None,
        "releases": sorted(mark.parent.name for mark in base.glob("releases/*/release.json")),
        "models": {
            manifest.parent.name: model(manifest)
            for manifest in sorted(at(wanted["models_dir"]).glob("[!.]*/manifest.json"))
        },
        "units": {unit: _unit(unit) for unit in wanted["units"]},
        "is_pending": (state / PENDING).exists(),
        "served": _json(state / SERVED),
        "keys": _lines(at(wanted["keys_file"])),
        "fact": _json(at(wanted["fact"])),
        "has_user": _has_user(at("etc/passwd"), wanted["user"]),
        "architecture": os.uname().machine,
        "python": _python_version(wanted["python"]),
    }


def signature(path: Path) -> str | None:
    """What must be equal for a file to be as it should: content, mode and owner."""
    try:
        told = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
    return f"{digest} {told.st_mode & 0o7777:04o} {told.st_uid} {told.st_gid}"


def model(manifest: Path) -> dict[str, Any]:
    """`manifest_sha256`, `spec` (its source), and `fault`: the first file of another size."""
    content = manifest.read_bytes()
    told = _json(manifest) or {}
    fault = None if told else "manifest.json cannot be read"
    for name, entry in told.get("files", {}).items():
        try:
            size = (manifest.parent / name).stat().st_size
        except OSError:
            size = None
        if size != entry["size_bytes"]:
            fault = fault or f"{name} is not as the manifest says"
    return {
        "manifest_sha256": hashlib.sha256(content).hexdigest(),
        "spec": told.get("source", {}).get("spec"),
        "fault": fault,
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _unit(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", "-p", "ActiveState,UnitFileState,NeedDaemonReload", unit]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        shown = ""  # no systemd: the preflight's to tell
    told = dict(line.partition("=")[::2] for line in shown.splitlines())
    return {
        "active": told.get("ActiveState", ""),
        "enabled": told.get("UnitFileState", ""),
        "needs_reload": told.get("NeedDaemonReload", "no"),
    }


def _python_version(python: str) -> str | None:
    """ "3.11"; None where there is none."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return told.stdout.strip() or None


def _has_user(passwd: Path, user: str) -> bool:
    return any(line.startswith(f"{user}:") for line in passwd.read_text().splitlines())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(json.loads(sys.argv[1]))) + "\n")
