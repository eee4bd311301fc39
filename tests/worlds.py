"""A pytest plugin for `tests/run.sh`: one session per world, and a tally over both.

A test belongs to the world whose name it is marked with, and to `run` otherwise; `--world` leaves
out all others, and those marked `bench` or `vm` unless `-m` names them. An `-m` of the person's own
still means what it says, which it would not if the choice were an `-m` too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

MARKED_WORLDS = ("build", "clients")
ONLY_BY_NAME = ("bench", "vm")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("worlds")
    group.addoption("--world", choices=("run", *MARKED_WORLDS), default=None)
    group.addoption("--tally", type=Path, metavar="FILE", help="append: passed failed skipped")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    world = config.getoption("--world")
    if world is None:
        return
    wanted = config.getoption("markexpr")
    left_out = [name for name in ONLY_BY_NAME if name not in wanted]
    chosen, others = [], []
    for item in items:
        is_here = world == next(filter(item.get_closest_marker, MARKED_WORLDS), "run")
        is_left_out = any(map(item.get_closest_marker, left_out))
        (chosen if is_here and not is_left_out else others).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=others)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tally = terminalreporter.config.getoption("--tally")
    if tally is None:
        return
    counts = {kind: len(reports) for kind, reports in terminalreporter.stats.items()}
    passed = counts.get("passed", 0) + counts.get("xfailed", 0)
    failed = counts.get("failed", 0) + counts.get("error", 0)
    with tally.open("a", encoding="utf-8") as file:
        file.write(f"{passed} {failed} {counts.get('skipped', 0)}\n")
