"""Who gets how many drafts: where they pay, and never more than may be."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.draft_planner import DraftPlanner, padded_counts, pass_cost, ragged_counts
from appliance.engine.prompt_lookup import Guess
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import Sequence

COPYING = (*range(100, 160), *range(100, 130))
"""Repeats itself for so long that the guess behind it is nearly sure."""
NEW = tuple(range(200, 290))
"""Holds no token twice: there is nothing to guess."""


def sequence(token_ids: SequenceOf[int] = COPYING, max_tokens: int = 100) -> Sequence:
    """As if it had decoded `token_ids` one by one, the first few apart."""
    one = Sequence(
        tuple(token_ids[:40]),
        SamplingParams(max_tokens + len(token_ids) - 40, temperature=0),
        vocab_size=300,
        timeout_s=9,
        sink=lambda output: None,
    )
    planner = DraftPlanner(7, pads_rows=False)
    for token_id in token_ids[40:]:
        planner.plan([one], 0)
        one.append(token_id)
    return one


def counts(
    sequences: list[Sequence],
    *,
    pads_rows: bool = False,
    max_draft_tokens: int = 7,
    num_prompt_tokens: int = 0,
) -> list[int]:
    planner = DraftPlanner(max_draft_tokens, pads_rows=pads_rows)
    return [len(drafts) for drafts in planner.plan(sequences, num_prompt_tokens)]


def test_one_that_copies_gets_all_drafts_and_one_that_does_not_gets_none() -> None:
    assert counts([sequence()]) == [7]
    assert counts([sequence(NEW)]) == [0]
    assert counts([sequence(NEW), sequence(), sequence(NEW)]) == [0, 7, 0]


def test_drafts_are_what_stood_behind_the_match() -> None:
    (drafts,) = DraftPlanner(4, pads_rows=False).plan([sequence()], 0)
    assert drafts == (130, 131, 132, 133)


@pytest.mark.parametrize("max_draft_tokens", [0, 1, 3, 7])
def test_no_sequence_gets_more_than_the_most(max_draft_tokens: int) -> None:
    assert counts([sequence()], max_draft_tokens=max_draft_tokens) == [max_draft_tokens]


@pytest.mark.parametrize("left", [1, 2, 3, 8, 9])
def test_drafts_and_the_token_behind_them_fit_what_the_answer_may_still_get(left: int) -> None:
    assert counts([sequence(max_tokens=left)]) == [min(7, left - 1)]


def test_nobody_decodes() -> None:
    assert counts([]) == []
    assert counts([], num_prompt_tokens=64) == []


@pytest.mark.parametrize("pads_rows", [False, True])
@given(num_copying=st.integers(0, 8), num_new=st.integers(0, 8))
def test_the_sum_over_a_step_is_bounded(pads_rows: bool, num_copying: int, num_new: int) -> None:
    sequences = [_COPYING_SEQUENCE] * num_copying + [_NEW_SEQUENCE] * num_new
    assert sum(counts(sequences, pads_rows=pads_rows)) <= 16


def guess(*chances: float) -> Guess:
    return Guess(tuple(range(len(chances))), chances)


NOTHING = guess()


def test_what_pays_alone_need_not_pay_among_many() -> None:
    """One token more is cheap in a pass over one, and dear in a pass over eight."""
    unsure = guess(0.3, 0.1)
    assert ragged_counts([unsure], 0) == [2]
    assert ragged_counts([unsure, *[NOTHING] * 3], 0) == [1, 0, 0, 0]
    assert ragged_counts([unsure, *[NOTHING] * 7], 0) == [0] * 8


def test_a_first_draft_too_dear_by_itself_is_taken_for_those_behind_it() -> None:
    """From one token to two a pass grows by more than from two to three or four."""
    assert ragged_counts([guess(0.06)], 0) == [0]
    assert ragged_counts([guess(0.06, 0.06, 0.06)], 0) == [3]


def test_the_likeliest_drafts_come_first_whoever_has_them() -> None:
    sure, less = guess(*[0.9] * 12), guess(0.8, 0.7, 0.2, 0.1, 0.05)
    assert ragged_counts([less, sure], 0) == [2, 12]


def test_one_with_nothing_to_guess_waits_half_as_long_again_at_most() -> None:
    sure = guess(*[0.99] * 15)
    assert ragged_counts([sure], 0) == [15]
    (count, none) = ragged_counts([sure, NOTHING], 0)
    assert none == 0
    assert 1.4 < pass_cost(2 + count) / pass_cost(2) <= 1.5
    short = guess(*[0.99] * 7)
    assert padded_counts([short, short], 0) == [7, 7]
    count, none, _ = padded_counts([short, NOTHING, NOTHING], 0)
    assert none == 0
    assert 1 < pass_cost(3 * (1 + count)) / pass_cost(3) <= 1.5


def test_beside_a_prompt_only_what_is_worth_its_full_cost_is_verified() -> None:
    unsure = guess(0.09)
    assert ragged_counts([unsure], 0) == [1]
    assert ragged_counts([unsure], 64) == [0]
    assert ragged_counts([guess(0.9, 0.8, 0.7)], 64) == [3]


def test_where_rows_are_padded_one_that_copies_does_not_hold_up_seven_others() -> None:
    sequences = [sequence(), *[_NEW_SEQUENCE] * 7]
    assert counts(sequences) == [7, *[0] * 7]
    assert counts(sequences, pads_rows=True) == [0] * 8
    assert counts([sequence(), sequence()], pads_rows=True) == [7, 7]
    assert counts([sequence(), sequence(max_tokens=4)], pads_rows=True) == [7, 3]


def test_the_cost_of_a_pass_grows_with_its_tokens() -> None:
    costs = [pass_cost(num_tokens) for num_tokens in range(1, 200)]
    assert costs == sorted(costs)
    assert [pass_cost(n) for n in (1, 2, 4, 8, 16, 32)] == [1, 1.07, 1.15, 1.3, 1.9, 3.3]
    # Behind the table a token costs what it cost at its end.
    assert pass_cost(33) - pass_cost(32) == pytest.approx(pass_cost(32) - pass_cost(31))


_COPYING_SEQUENCE, _NEW_SEQUENCE = sequence(), sequence(NEW)
