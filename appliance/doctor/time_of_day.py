"""The clock on the wall: a box without a battery begins in the past, and TLS and logs go wrong."""

from __future__ import annotations

import datetime

from appliance.doctor.box import Box
from appliance.doctor.finding import Section

_SYNCHRONIZED = "run/systemd/timesync/synchronized"
_SET = "sudo timedatectl set-ntp true (systemd-timesyncd or chrony must be installed)"


def examine(box: Box) -> Section:
    """Findings of this section. Of two clocks that disagree nobody knows which is right, but none
    is before the model was built."""
    section = Section("time")
    now = datetime.datetime.now(datetime.timezone.utc)
    synchronized = _is_synchronized(box)
    section.facts.update(now=now.isoformat(timespec="seconds"), synchronized=synchronized)
    built = _built(box)
    if built is not None and now < built - datetime.timedelta(days=1):
        section.problem(
            "clock", f"it is {now:%Y-%m-%d}, but the model was built on {built:%Y-%m-%d}", _SET
        )
    else:
        section.ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")
    if synchronized:
        section.ok("sync", "synchronized")
    elif box.is_container:
        section.note("sync", "the clock is that of the container's host, and set there")
    elif synchronized is None:
        section.note("sync", "whether the clock is synchronized is not known here")
    else:
        section.note("sync", "the clock is not synchronized", _SET)
    return section


def _is_synchronized(box: Box) -> bool | None:
    """None where nobody tells: without systemd, or in a container whose clock is its host's."""
    if box.machine.has(_SYNCHRONIZED):
        return True
    if not box.machine.has("run/systemd/system"):
        return None
    try:
        told = box.machine.tools.run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    except OSError:
        return None
    return {"yes": True, "no": False}.get(told.strip())


def _built(box: Box) -> datetime.datetime | None:
    if box.model.manifest is None:
        return None
    try:
        built = datetime.datetime.fromisoformat(box.model.manifest.created)
    except ValueError:
        return None
    return built if built.tzinfo else built.replace(tzinfo=datetime.timezone.utc)
