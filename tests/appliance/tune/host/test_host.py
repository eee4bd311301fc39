"""Knobs set, remembered and given back, on machines made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.errors import HostTuningError
from appliance.tune.host.host import STATE, Outcome, apply, restore, status
from appliance.tune.host.plan import AFFINITY, Machine
from appliance.tune.host.profile import Profile, Wish, read_profile
from tests import fake_machine
from tests.appliance.tune.host.fake_tools import FakeTools
from tests.fake_machine import CPUS, kernel_value

ALL = frozenset(range(64))
POLICIES = [f"{CPUS}/cpufreq/policy{n}" for n in range(4)]
NO_TURBO = f"{CPUS}/intel_pstate/no_turbo"
HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"
SWAPPINESS = "proc/sys/vm/swappiness"


def profile(**values: str | None) -> Profile:
    """The shipped one with some values changed."""
    changed = {name: Wish(value, "because") for name, value in values.items()}
    return {**read_profile(None), **changed}


def machine(root: Path, tools: FakeTools | None = None) -> Machine:
    return Machine(root, tools or FakeTools(), ALL)


def tree(root: Path) -> dict[str, str]:
    """Every file's content, so that two states can be compared."""
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def of(outcomes: list[Outcome], knob: str) -> str:
    """What was said of a knob."""
    return "; ".join(one.text for one in outcomes if one.knob == knob)


def test_an_n100_is_tuned_and_put_back(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    before, tools = tree(tmp_path), FakeTools()
    outcomes = apply(profile(), machine(tmp_path, tools))
    assert not any(one.has_failed for one in outcomes)
    for policy in POLICIES:
        assert kernel_value(tmp_path, f"{policy}/scaling_governor") == "performance"
        # intel_pstate refuses it under that governor, and sets it itself.
        preference = kernel_value(tmp_path, f"{policy}/energy_performance_preference")
        assert preference == "balance_power"
    assert kernel_value(tmp_path, NO_TURBO) == "0"
    assert kernel_value(tmp_path, HUGE_PAGES) == "madvise"
    assert kernel_value(tmp_path, SWAPPINESS) == "10"
    assert (tmp_path / AFFINITY).read_text().endswith("[Service]\nCPUAffinity=0-3\n")
    assert tools.reloads == 1
    assert "policy2: powersave -> performance" in of(outcomes, "governor")
    assert "sets it itself" in of(outcomes, "energy_performance_preference")

    outcomes = restore(machine(tmp_path, tools))
    assert not any(one.has_failed for one in outcomes)
    restored = {path: text.replace("[", "").replace("]", "") for path, text in before.items()}
    after = tree(tmp_path)
    assert after.pop(HUGE_PAGES) == "always\n"
    assert restored.pop(HUGE_PAGES)
    assert after == restored
    assert tools.reloads == 2
    assert list((tmp_path / "run/systemd/system").iterdir()) == []
    assert restore(machine(tmp_path, tools)) == []


def test_a_second_apply_changes_nothing_and_forgets_nothing(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    tools = FakeTools()
    apply(profile(), machine(tmp_path, tools))
    first = tree(tmp_path)
    outcomes = apply(profile(), machine(tmp_path, tools))
    assert tree(tmp_path) == first
    assert tools.reloads == 1
    assert "policy0: performance already" in of(outcomes, "governor")


def test_what_was_there_at_first_is_given_back_whatever_was_applied_since(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    apply(profile(), machine(tmp_path))
    apply(profile(swappiness="100", governor="powersave"), machine(tmp_path))
    assert kernel_value(tmp_path, SWAPPINESS) == "100"
    policy = POLICIES[0]
    assert kernel_value(tmp_path, f"{policy}/scaling_governor") == "powersave"
    # Under this governor the preference counts, and is set behind it.
    preference = f"{policy}/energy_performance_preference"
    assert kernel_value(tmp_path, preference) == "balance_performance"
    restore(machine(tmp_path))
    assert kernel_value(tmp_path, SWAPPINESS) == "60"
    assert kernel_value(tmp_path, preference) == "balance_power"
    assert kernel_value(tmp_path, f"{policy}/scaling_governor") == "powersave"


def test_what_somebody_else_has_set_since_is_left(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    apply(profile(), machine(tmp_path))
    fake_machine.write(tmp_path, {SWAPPINESS: "33"})
    outcomes = restore(machine(tmp_path))
    assert "left alone: somebody has set it to 33 since" in of(outcomes, "swappiness")
    assert kernel_value(tmp_path, SWAPPINESS) == "33"
    assert not (tmp_path / STATE).exists()


def test_a_virtual_machine_skips_what_it_does_not_have(tmp_path: Path) -> None:
    fake_machine.virtual(tmp_path)
    outcomes = apply(profile(), machine(tmp_path))
    assert not any(one.has_failed for one in outcomes)
    assert "as in most virtual machines" in of(outcomes, "governor")
    assert "no switch for it" in of(outcomes, "turbo")
    assert kernel_value(tmp_path, SWAPPINESS) == "10"
    assert "CPUAffinity=0-1" in (tmp_path / AFFINITY).read_text()


def test_a_hybrid_cpu_gets_its_performance_cores(tmp_path: Path) -> None:
    fake_machine.hybrid(tmp_path)
    outcomes = apply(profile(), machine(tmp_path))
    assert "CPUAffinity=0-3 (the performance cores of 0-11)" in of(outcomes, "cpu_affinity")


def test_a_list_of_cpus_from_the_profile(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    here = Machine(tmp_path, FakeTools(), frozenset({0, 1, 2}))
    apply(profile(cpu_affinity="1-3"), here)
    assert "CPUAffinity=1-2\n" in (tmp_path / AFFINITY).read_text()
    restore(here)
    outcomes = apply(profile(cpu_affinity="3"), here)
    assert "none of 3 is among the usable 0-2" in of(outcomes, "cpu_affinity")
    assert not (tmp_path / AFFINITY).exists()


def test_a_knob_can_be_left_alone(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    outcomes = apply(profile(governor=None, cpu_affinity=None), machine(tmp_path))
    assert of(outcomes, "governor") == "left alone: the profile says so"
    assert kernel_value(tmp_path, f"{POLICIES[0]}/scaling_governor") == "powersave"
    assert not (tmp_path / AFFINITY).exists()


def test_a_governor_that_the_driver_does_not_offer(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    outcomes = apply(profile(governor="schedutil"), machine(tmp_path))
    assert "policy0 offers performance powersave, not schedutil" in of(outcomes, "governor")
    # The governor stays powersave, so the preference counts.
    assert "balance_power -> balance_performance" in of(outcomes, "energy_performance_preference")


def test_turbo_without_intel_pstate(tmp_path: Path) -> None:
    fake_machine.virtual(tmp_path)
    fake_machine.write(tmp_path, {f"{CPUS}/cpufreq/boost": "0"})
    apply(profile(), machine(tmp_path))
    assert kernel_value(tmp_path, f"{CPUS}/cpufreq/boost") == "1"


def test_power_profiles_daemon_is_told_instead_of_fought(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    tools = FakeTools("power-profiles-daemon.service", "thermald.service")
    outcomes = apply(profile(), machine(tmp_path, tools))
    assert tools.power_profile == "performance"
    for policy in POLICIES:
        assert kernel_value(tmp_path, f"{policy}/scaling_governor") == "powersave"
    assert kernel_value(tmp_path, NO_TURBO) == "1"
    assert kernel_value(tmp_path, SWAPPINESS) == "10"  # none of its business
    assert "power-profiles-daemon.service sets it" in of(outcomes, "turbo")
    assert "thermald.service runs" in of(outcomes, "thermal")
    restore(machine(tmp_path, tools))
    assert tools.power_profile == "balanced"


def test_a_machine_without_the_performance_profile(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    tools = FakeTools("power-profiles-daemon.service")
    tools.power_profiles.remove("performance")
    outcomes = apply(profile(), machine(tmp_path, tools))
    assert "failed: powerprofilesctl set performance: no such profile" in of(outcomes, "governor")
    assert [one.knob for one in outcomes if one.has_failed] == ["governor"]
    restore(machine(tmp_path, tools))
    assert tools.power_profile == "balanced"


@pytest.mark.parametrize("before", ["virtual-guest", None])
def test_tuned_is_told_instead_of_fought(tmp_path: Path, before: str | None) -> None:
    fake_machine.n100(tmp_path)
    tools = FakeTools("tuned.service", "power-profiles-daemon.service")
    tools.tuned_profile = before
    outcomes = apply(profile(), machine(tmp_path, tools))
    assert tools.tuned_profile == "throughput-performance"
    assert tools.power_profile == "balanced"
    assert kernel_value(tmp_path, SWAPPINESS) == "60"
    assert "tuned.service sets it" in of(outcomes, "swappiness")
    assert "CPUAffinity" in of(outcomes, "cpu_affinity")
    restore(machine(tmp_path, tools))
    assert tools.tuned_profile == before


def test_a_daemon_that_is_not_to_be_told(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    tools = FakeTools("tuned.service")
    apply(profile(governor=None), machine(tmp_path, tools))
    assert tools.tuned_profile == "virtual-guest"


def test_status_changes_nothing(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    before = tree(tmp_path)
    outcomes = status(profile(), machine(tmp_path))
    assert "policy3: powersave, wished: performance" in of(outcomes, "governor")
    assert of(outcomes, "cpu_affinity") == "nothing, wished: CPUAffinity=0-3"
    assert tree(tmp_path) == before
    apply(profile(), machine(tmp_path))
    outcomes = status(profile(), machine(tmp_path))
    assert of(outcomes, "swappiness") == "10, as wished, before: 60"


def test_a_value_is_remembered_before_it_is_changed(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    (tmp_path / STATE).parent.mkdir(parents=True)
    (tmp_path / STATE).write_text("[{]")
    with pytest.raises(HostTuningError, match="remove it"):
        apply(profile(), machine(tmp_path))
    (tmp_path / STATE).unlink()
    (tmp_path / STATE).with_suffix(".new").mkdir()  # in the way
    with pytest.raises(HostTuningError, match="cannot be written"):
        apply(profile(), machine(tmp_path))
    assert kernel_value(tmp_path, f"{POLICIES[0]}/scaling_governor") == "powersave"


def test_a_place_that_cannot_be_read_any_more_is_told_and_kept(tmp_path: Path) -> None:
    fake_machine.n100(tmp_path)
    apply(profile(), machine(tmp_path))
    (tmp_path / SWAPPINESS).unlink()
    outcomes = restore(machine(tmp_path))
    assert [one.knob for one in outcomes if one.has_failed] == ["swappiness"]
    assert SWAPPINESS in (tmp_path / STATE).read_text()
    fake_machine.write(tmp_path, {SWAPPINESS: "10"})
    assert of(restore(machine(tmp_path)), "swappiness") == "10 -> 60"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_without_root_nothing_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "host", "--apply"]) == 7
    assert "needs root" in capsys.readouterr().err


def test_the_command_shows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "host", "--status"]) == 0
    told = capsys.readouterr().out
    for knob in read_profile(None):
        assert f"{knob}: " in told


@pytest.mark.parametrize("arguments", [[], ["--apply", "--restore"]])
def test_the_command_wants_one_thing_to_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", "host", *arguments])
    assert ended.value.code == 2
    assert "--status" in capsys.readouterr().err
