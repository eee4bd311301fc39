"""Turns the knobs, remembers what they held, and turns them back."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from appliance.tune.host.memory import Memory, Remembered
from appliance.tune.host.places import Place, place_at
from appliance.tune.host.plan import Machine, Skip, Step, plan
from appliance.tune.host.profile import Profile

STATE = "run/qwen-appliance-tune/state.json"
_THERMAL = "thermald.service"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one knob, or of one place of several that it has.

    `text` says it in a line; `has_failed` if it should have become something else.
    """

    knob: str
    text: str
    has_failed: bool = False


def apply(profile: Profile, machine: Machine) -> list[Outcome]:
    """Set what the profile wishes. Again: the same, and what was there at first stays remembered.

    A place that refuses is an outcome, not an error. Raises `HostTuningError` when nothing can be
    remembered; then nothing is changed.
    """
    memory = Memory(machine.root / STATE)
    outcomes = [
        Outcome(one.knob, f"left alone: {one.why}") if isinstance(one, Skip) else _do(one, memory)
        for one in plan(profile, machine)
    ]
    if machine.tools.is_active(_THERMAL):
        told = f"{_THERMAL} runs; it may lower the clock when the machine gets hot, and is left to"
        outcomes.append(Outcome("thermal", told))
    return outcomes


def restore(machine: Machine) -> list[Outcome]:
    """Give every place its value back, the last one first, and forget it.

    What somebody else has changed since is theirs, and left. Raises `HostTuningError`.
    """
    memory = Memory(machine.root / STATE)
    return [_undo(one, memory, machine) for one in reversed(list(memory))]


def status(profile: Profile, machine: Machine) -> list[Outcome]:
    """What every knob holds, is to hold and held, without changing any."""
    memory = Memory(machine.root / STATE)
    outcomes = []
    for one in plan(profile, machine):
        if isinstance(one, Skip):
            outcomes.append(Outcome(one.knob, f"left alone: {one.why}"))
            continue
        remembered = memory.get(one.place.address)
        before = f", before: {brief(remembered.old)}" if remembered else ""
        try:
            now = one.place.read()
        except OSError as error:
            outcomes.append(_failed(one, error))
            continue
        wanted = "as wished" if now == one.value else f"wished: {brief(one.value)}"
        outcomes.append(Outcome(one.knob, f"{_at(one.place)}{brief(now)}, {wanted}{before}"))
    return outcomes


def _do(step: Step, memory: Memory) -> Outcome:
    place, because = step.place, f" ({step.why})" if step.why else ""
    try:
        before = place.read()
        if before == step.value:
            return Outcome(step.knob, f"{_at(place)}{brief(before)} already{because}")
        memory.remember(Remembered(step.knob, place.address, before, step.value))
        place.write(step.value)
        after = place.read()
    except OSError as error:
        return _failed(step, error)
    if after != step.value:
        text = f"{_at(place)}still {brief(after)} after {brief(step.value)} was written"
        return Outcome(step.knob, text, has_failed=True)
    text = f"{_at(place)}{brief(before)} -> {brief(after)}{because}"
    return Outcome(step.knob, text)


def _undo(one: Remembered, memory: Memory, machine: Machine) -> Outcome:
    try:
        place = place_at(one.address, machine.root, machine.tools)
        now = place.read()
        if now == one.old:
            text = f"{_at(place)}{brief(now)} already"
        elif now != one.new:
            text = f"{_at(place)}left alone: somebody has set it to {brief(now)} since"
        else:
            place.write(one.old)
            text = f"{_at(place)}{brief(now)} -> {brief(one.old)}"
    except (OSError, ValueError) as error:
        return Outcome(one.knob, f"cannot be restored: {error}", has_failed=True)
    memory.forget(one)
    return Outcome(one.knob, text)


def _failed(step: Step, error: OSError) -> Outcome:
    where = _at(step.place)
    if error.errno == errno.EROFS:
        return Outcome(step.knob, f"{where}left alone: read-only here, as in a container")
    return Outcome(step.knob, f"{where}failed: {error}", has_failed=True)


def _at(place: Place) -> str:
    """Which of several places it is: `policy2: `; nothing where the knob's name says it."""
    _, _, path = place.address.partition(":")
    parent = Path(path).parent.name
    return f"{parent}: " if parent.startswith("policy") else ""


def brief(value: str | None) -> str:
    """A value in a word: of a drop-in its setting."""
    if value is None:
        return "nothing"
    return value.strip().rpartition("\n")[2]
