"""How many drafts pay, from what passes cost."""

from __future__ import annotations

import pytest

from appliance.tune.drafts import (
    PassTimes,
    best_max_draft_tokens,
    change_cost,
    draft_settings,
    verify_cost,
)

FLAT = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}
BY_TOKEN = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}


# The last one in a busy moment.
SWEEPS = [
    PassTimes(changed={1: 41.0, 2: 45, 4: 47}, steady={1: 30.0, 2: 33, 4: 36}),
    PassTimes(changed={1: 42.0, 2: 45, 4: 46}, steady={1: 30.0, 2: 33, 4: 36}),
    PassTimes(changed={1: 99.0, 2: 99, 4: 99}, steady={1: 50.0, 2: 99, 4: 99}),
]


def test_costs_are_relative_to_a_decode_step() -> None:
    assert verify_cost(SWEEPS) == {1: 1.0, 2: pytest.approx(1.1), 4: pytest.approx(1.2)}
    assert change_cost(SWEEPS) == pytest.approx(12 / 30)


def test_passes_that_cost_nothing_more_take_as_many_as_there_are() -> None:
    assert best_max_draft_tokens(FLAT) == 15


def test_passes_that_cost_by_the_token_take_none() -> None:
    assert best_max_draft_tokens(BY_TOKEN) == 0


def test_settings_follow() -> None:
    assert draft_settings(FLAT) == {"max_draft_tokens": 15}
    assert draft_settings(BY_TOKEN) == {"prompt_lookup": False}


def test_in_between_it_is_the_most_tokens_per_time() -> None:
    costs = {1: 1.0, 2: 1.1, 4: 1.3, 8: 2.6, 16: 5.2}

    def rate(num_drafts: int, cost: float) -> float:
        return (1 - 0.8 ** (num_drafts + 1)) / 0.2 / cost

    rates = {1: rate(1, 1.1), 2: rate(2, 1.2), 3: rate(3, 1.3), 4: rate(4, 1.625)}
    assert max(rates, key=rates.__getitem__) == best_max_draft_tokens(costs) == 3


def test_drafts_that_are_seldom_right_are_worth_less() -> None:
    costs = {1: 1.0, 2: 1.1, 4: 1.3, 8: 1.6, 16: 2.2}
    numbers = [best_max_draft_tokens(costs, accepted) for accepted in (0.05, 0.5, 0.8, 0.95)]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0 and numbers[-1] == 15
