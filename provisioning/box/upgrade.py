"""An upgrade as one step: how everything was is written down before, and put back if it fails.

The journal outlasts a power cut and a run that was broken off: the next run goes on, and what it
falls back to is what served before the first of them.
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provisioning.box.models import Models, digest
from provisioning.box.places import Places
from provisioning.box.written import read_json, write, write_json


class Upgrade:
    """From `begin` to `commit` or `roll_back`; each may be repeated. Raises `OSError`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._models = Models(places)

    def begin(self, release: str, model: str, files: Sequence[str]) -> None:
        """Write down how `files`, the model called `model` and the link are, before they change.

        `release` is the one that is to come.
        """
        journal: dict[str, Any] = read_json(self._places.journal) or {
            "before": read_json(self._places.served),
            "venv": _link(self._places.venv),
            "files": {},
            "models": {},
            "releases": [],
        }
        for path in files:
            journal["files"].setdefault(path, _remembered(self._places.at(path)))
        journal["models"].setdefault(model, digest(self._places.models / model))
        before = journal["before"] or {}
        there = (before.get("release"), before.get("previous_release"), *journal["releases"])
        if release not in there:
            journal["releases"].append(release)
        self._places.state.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_json(self._places.journal, journal)

    def publish_model(self, name: str) -> None:
        """Let the model that came take its place. `begin` comes first."""
        assert self._places.journal.exists(), "an upgrade begins before it changes anything"
        self._models.publish(name)

    def roll_back(self) -> str | None:
        """Put everything back; the release that serves again, None when there was none before."""
        journal = read_json(self._places.journal)
        if journal is None:
            return None
        for path, told in journal["files"].items():
            _restore(self._places.at(path), told)
        _relink(self._places.venv, journal["venv"])
        for name, manifest_sha256 in journal["models"].items():
            self._models.take_back(name, manifest_sha256)
        if journal["venv"] is not None:
            # Where nothing served before they are kept: whole, unused, and soon tried again.
            for release in journal["releases"]:
                shutil.rmtree(self._places.releases / release, ignore_errors=True)
        self._places.journal.unlink()
        return None if journal["venv"] is None else Path(journal["venv"]).parent.name

    def commit(self, release: str, model: str) -> None:
        """It is verified: remember it, keep what it replaced, forget what that had replaced."""
        before = read_json(self._places.served) or {}
        now = {
            "release": release,
            "previous_release": _one_before(before, "release", release),
            "model": model,
            "previous_model": _one_before(before, "model", model),
        }
        write_json(self._places.served, now)
        kept = {now["release"], now["previous_release"]}
        for path in self._places.releases.iterdir():
            if path.name in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()  # an archive that was sent by a run that was broken off
        for name in {before.get("model"), before.get("previous_model")}:
            if name not in (None, now["model"], now["previous_model"]):
                self._models.remove(name)
        self._models.forget_older(model)
        self._models.forget_incoming()
        self._places.journal.unlink(missing_ok=True)


def _one_before(before: dict[str, str | None], kind: str, now: str) -> str | None:
    if before.get(kind) == now:
        return before.get(f"previous_{kind}")
    return before.get(kind)


def _link(path: Path) -> str | None:
    return os.readlink(path) if path.is_symlink() else None


def _relink(path: Path, target: str | None) -> None:
    if target is None:
        path.unlink(missing_ok=True)
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)


def _remembered(path: Path) -> dict[str, Any] | None:
    """A file or a link, as JSON; None: there is none."""
    if path.is_symlink():
        return {"link": os.readlink(path)}
    if not path.exists():
        return None
    told = path.stat()
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return {"content": content, "mode": stat.S_IMODE(told.st_mode)}


def _restore(path: Path, told: dict[str, Any] | None) -> None:
    if told is None:
        path.unlink(missing_ok=True)
    elif "link" in told:
        path.parent.mkdir(parents=True, exist_ok=True)
        _relink(path, told["link"])
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, base64.b64decode(told["content"]), told["mode"])
