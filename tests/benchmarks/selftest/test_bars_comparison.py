"""Ratios, limits and verdicts."""

from __future__ import annotations

import pytest

from tests.benchmarks.harness.comparison import Comparison, Limit, Row, paired


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    # One busy round: the ratio of the medians would be 1.5, that of the rounds' median is 1.
    compared = Comparison((10.0, 15.0, 90.0), (10.0, 15.0, 10.0))
    assert compared.ratio == 1.0
    assert compared.spread == (1.0, 9.0)
    assert (compared.our_figure, compared.their_figure) == (15.0, 10.0)


def test_a_figure_without_a_peer_is_its_own_ratio() -> None:
    compared = Comparison((700.0, 720.0, 710.0))
    assert compared.ratio == 710.0
    assert compared.their_figure is None


def test_sides_with_unequal_rounds_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        Comparison((1.0,), (1.0, 2.0))


def test_a_side_without_rounds_compares_with_nothing() -> None:
    assert paired([], [1.0]) is None
    assert paired([1.0], []) is None
    assert paired([1.0], [2.0]) == Comparison((1.0,), (2.0,))


@pytest.mark.parametrize(
    ("limit", "ratio", "short"),
    [
        (Limit("<=", 1.0), 1.0, 0.0),
        (Limit("<=", 1.0), 1.1, 0.1),
        (Limit(">=", 5.5), 5.5, 0.0),
        (Limit(">=", 5.5), 4.4, 0.2),
        (Limit("<=", 0), 0, 0.0),
        (Limit("<=", 0), 3, 3.0),
        (Limit("<=", 2), -1.0, 0.0),
    ],
)
def test_a_limit_and_how_far_it_is_missed(limit: Limit, ratio: float, short: float) -> None:
    assert limit.short_by(ratio) == pytest.approx(short)
    assert limit.is_kept(ratio) is (short == 0)


def test_a_limit_of_none_is_missed_by_a_number() -> None:
    assert Limit("<=", 0).verdict(3) == "short by 3"
    assert Limit("<=", 4).verdict(5) == "short by 25%"
    assert Limit("<=", 4).verdict(4) == "pass"


def row(**ratios: float) -> Row:
    ours = {name: Comparison((ratio,), (1.0,)) for name, ratio in ratios.items()}
    return Row("a bar", "ms", Limit("<=", 1.0), "peer", ours, {"third": "does not start"})


def test_one_variant_is_enough() -> None:
    assert row(stateful=1.2, paged=0.9).passed
    assert not row(stateful=1.2, paged=1.3).passed
    assert not row().passed


def test_verdicts_say_what_each_variant_did() -> None:
    assert row(stateful=1.25, paged=0.9).verdicts == {
        "stateful": "short by 25%",
        "paged": "pass",
        "third": "not measured",
    }
