"""How many drafts pay, from what passes cost."""

from __future__ import annotations

import pytest

from appliance.tune.drafts import best_max_draft_tokens, verify_cost
from appliance.tune.judge import TurnTimes

FLAT = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}
BY_TOKEN = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}


def test_cost_is_relative_to_a_decode_step() -> None:
    times = TurnTimes(decode=30, prefill=200, passes={4: 36.0, 2: 33.0})
    assert verify_cost(times) == {1: 1.0, 2: pytest.approx(1.1), 4: pytest.approx(1.2)}


def test_passes_that_cost_nothing_more_take_as_many_as_there_are() -> None:
    assert best_max_draft_tokens(FLAT) == 15


def test_passes_that_cost_by_the_token_take_none() -> None:
    assert best_max_draft_tokens(BY_TOKEN) == 0


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
