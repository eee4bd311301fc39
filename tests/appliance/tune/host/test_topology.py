"""CPU lists, and which CPUs are chosen on machines of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.tune.host.cpu_list import format_cpus, parse_cpus
from appliance.tune.host.topology import choose_cpus
from tests import fake_machine
from tests.fake_machine import CPUS

ALL = frozenset(range(64))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", []), ("\n", []), ("0", [0]), ("0-3", [0, 1, 2, 3]), ("0,2-3,8\n", [0, 2, 3, 8])],
)
def test_a_list_of_cpus(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == frozenset(cpus)


@pytest.mark.parametrize("text", ["x", "3-1", "0-", "-1", "0;1", "0,,1", "1.5", "0-3-5"])
def test_what_is_no_list_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected a list of CPUs"):
        parse_cpus(text)


@given(st.frozensets(st.integers(0, 40)))
def test_what_is_written_is_read(cpus: frozenset[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == cpus


def test_a_list_is_short() -> None:
    assert format_cpus([8, 0, 1, 2, 5, 4]) == "0-2,4-5,8"


def chosen(root: Path, allowed: frozenset[int] = ALL) -> str:
    return format_cpus(choose_cpus(root, allowed)[0])


@pytest.mark.parametrize(
    ("make", "cpus", "why"),
    [
        (fake_machine.n100, "0-3", "all 4, of one kind"),
        (fake_machine.hybrid, "0-3", "the performance cores of 0-11"),
        (fake_machine.virtual, "0-1", "all 2, of one kind"),
    ],
)
def test_the_cores_of(tmp_path: Path, make: Callable[[Path], Path], cpus: str, why: str) -> None:
    picked, told = choose_cpus(make(tmp_path), ALL)
    assert (format_cpus(picked), told) == (cpus, why)


def test_a_cpuset_is_respected(tmp_path: Path) -> None:
    fake_machine.hybrid(tmp_path)
    assert chosen(tmp_path, frozenset({1, 2, 6, 7})) == "1-2"
    # Where it leaves no performance core, the others are what there is.
    assert chosen(tmp_path, frozenset({6, 7})) == "6-7"


def test_isolated_cpus_are_left_to_whom_they_are_for(tmp_path: Path) -> None:
    fake_machine.cpus(tmp_path, 4, isolated="2-3")
    picked, told = choose_cpus(tmp_path, ALL)
    assert (format_cpus(picked), told) == ("0-1", "all 2, of one kind, without the isolated 2-3")
    # Unless nothing else is left.
    assert chosen(tmp_path, frozenset({2, 3})) == "2-3"


def test_cpus_that_are_switched_off_are_not_chosen(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    fake_machine.write(tmp_path, {f"{CPUS}/online": "0,2-3"})
    assert chosen(tmp_path) == "0,2-3"


def test_on_arm_the_fastest_kind_is_chosen(tmp_path: Path) -> None:
    fake_machine.cpus(tmp_path, 8)
    capacities = {f"{CPUS}/cpu{n}/cpu_capacity": "446" if n < 4 else "1024" for n in range(8)}
    fake_machine.write(tmp_path, capacities)
    picked, told = choose_cpus(tmp_path, ALL)
    assert (format_cpus(picked), told) == ("4-7", "the fastest of 0-7")


def test_without_any_word_from_the_kernel_all_are_taken(tmp_path: Path) -> None:
    assert chosen(tmp_path, frozenset({0, 1})) == "0-1"
