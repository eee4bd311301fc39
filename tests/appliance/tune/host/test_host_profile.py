"""The profile that is shipped, and people's own on top of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.tune.host.plan import _PLANNERS
from appliance.tune.host.profile import read_profile


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tune.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_profile_has_a_reason_for_every_knob() -> None:
    profile = read_profile(None)
    assert profile.keys() == _PLANNERS.keys()
    assert [name for name, wish in profile.items() if len(wish.reason) < 40] == []
    # The preference is refused or not as the governor says, which therefore comes first.
    assert list(profile)[:2] == ["governor", "energy_performance_preference"]


def test_ones_own_changes_what_it_names(tmp_path: Path) -> None:
    text = "turbo: {value: off, reason: it is in a bedroom}\nswappiness: {value: null}\n"
    profile, shipped = read_profile(own(tmp_path, text)), read_profile(None)
    assert (profile["turbo"].value, profile["turbo"].reason) == ("off", "it is in a bedroom")
    assert profile["swappiness"].value is None
    assert profile["governor"] == shipped["governor"]
    assert list(profile) == list(shipped)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("govenor: {value: x}", "govenor = 'x'"),
        ("turbo: {value: fast}", "expected on or off"),
        ("swappiness: {value: 300}", "from 0 to 200"),
        ("swappiness: {value: few}", "from 0 to 200"),
        ("cpu_affinity: {value: 3-1}", "such as 0-3,8, not '3-1', or auto"),
        ("governor: performance", "expected `value:` and `reason:`"),
        ("governor: {reason: because}", "expected `value:` and `reason:`"),
        ("governor: {value: [a]}", "expected a word, a number or null"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_profile(own(tmp_path, text))
    assert told in str(caught.value) and "tune.yaml" in str(caught.value)
