"""What a pass costs: the measured points, and straight lines between and behind them."""

from __future__ import annotations

import pytest

from appliance.engine.pass_cost import PassCost


def test_the_cost_grows_with_the_tokens() -> None:
    cost = PassCost(0).of
    costs = [cost(num_tokens) for num_tokens in range(1, 200)]
    assert costs == sorted(costs)
    assert [cost(n) for n in (1, 2, 4, 8, 16, 32)] == pytest.approx([1, 1.07, 1.15, 1.3, 1.9, 3.3])
    assert cost(6) == pytest.approx((cost(4) + cost(8)) / 2)
    # Behind what was measured a token costs what it cost at the end of it.
    assert cost(33) - cost(32) == pytest.approx(cost(32) - cost(31))


def test_positions_and_a_change_of_size_come_on_top() -> None:
    cost = PassCost(1e-4).of
    assert cost(4, 2000) == pytest.approx(cost(4) + 0.2)
    assert cost(4, 2000, resized=True) == pytest.approx(cost(4) + 0.45)
    assert PassCost(0).of(4, 2000) == PassCost(0).of(4)
