"""Margins: how much faster is faster."""

from __future__ import annotations

import pytest

from appliance.tune.judge import (
    ANSWER_TOKENS,
    MARGIN_PER_DOUBLING,
    MIN_MARGIN,
    TurnTimes,
    judge,
    median_times,
)


def times(decode: float, prefill: float) -> TurnTimes:
    return TurnTimes(decode, prefill)


def against_default(*ratios: float) -> list[tuple[TurnTimes, TurnTimes]]:
    """Rounds whose turns are so many times as long as the default's."""
    return [(times(ratio * 10, ratio * 100), times(10, 100)) for ratio in ratios]


def test_a_turn_is_a_prefill_and_64_decode_steps() -> None:
    assert times(10, 100).turn == 100 + ANSWER_TOKENS * 10 == 740


def test_steady_rounds_win_by_more_than_three_per_cent() -> None:
    assert MIN_MARGIN == 0.03
    assert judge(against_default(0.96, 0.96, 0.96)).wins
    assert not judge(against_default(0.98, 0.98, 0.98)).wins


def test_the_ratio_is_the_median_so_one_disturbed_round_does_not_count() -> None:
    judgement = judge(against_default(0.9, 0.9, 3.0, 0.9, 0.9))
    assert judgement.ratio == pytest.approx(0.9)
    assert judgement.margin == MIN_MARGIN
    assert judgement.wins


def test_rounds_that_scatter_widen_the_margin_by_two_standard_errors() -> None:
    judgement = judge(against_default(0.85, 0.95, 1.05))
    assert judgement.ratio == pytest.approx(0.95)
    assert judgement.margin == pytest.approx(2 * 1.48 * 1.25 * 0.1 / 3**0.5)
    assert not judgement.wins
    assert judge(against_default(*[0.945, 0.955] * 50)).wins  # the same median, known better


def test_a_slow_moment_of_the_machine_hits_both_and_says_nothing() -> None:
    busy = [(times(9 * f, 90 * f), times(10 * f, 100 * f)) for f in (1, 2.5, 1.3)]
    assert judge(busy).ratio == pytest.approx(0.9)


@pytest.mark.parametrize(("prefill", "wins"), [(200, True), (300, True), (340, False)])
def test_decode_gained_and_prefill_lost_are_weighed_by_the_turn(prefill: float, wins: bool) -> None:
    # Of 2,120 ms it decodes 192 less; what it prefills more must leave 3 % of the turn.
    rounds = [(times(27, prefill), times(30, 200))] * 3
    assert judge(rounds).wins is wins


def test_memory_has_to_be_bought() -> None:
    rounds = against_default(0.9, 0.9, 0.9)
    assert judge(rounds).wins
    doubled = judge(rounds, memory_factor=2)
    assert doubled.margin == pytest.approx(MIN_MARGIN + MARGIN_PER_DOUBLING)
    assert not doubled.wins
    assert judge(against_default(0.86, 0.86, 0.86), memory_factor=2).wins
    assert judge(rounds, memory_factor=4).margin == pytest.approx(0.23)
    assert judge(rounds, memory_factor=0.5).margin == MIN_MARGIN  # less memory is no merit here


def test_hopeless_is_who_never_reached_the_margin_or_is_no_faster() -> None:
    assert judge(against_default(0.98, 0.99, 1.1)).hopeless
    assert not judge(against_default(0.96, 0.99, 1.1)).hopeless
    assert judge(against_default(0.96, 0.99, 1.1), memory_factor=2).hopeless
    assert judge(against_default(0.7, 1.0, 1.1)).hopeless


def test_medians_are_taken_figure_by_figure() -> None:
    rounds = [TurnTimes(1, 30), TurnTimes(2, 10), TurnTimes(3, 20)]
    assert median_times(rounds) == TurnTimes(2, 20)
