"""Who gets how many drafts: where they pay, and never more than may be."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.base import RunnerLimits
from appliance.engine.draft_planner import Candidate, DraftPlanner, padded_options, ragged_options
from appliance.engine.prompt_lookup import Guess
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import Sequence

COPYING = (*range(100, 160), *range(100, 130))
"""Repeats itself for so long that the guess behind it is nearly sure."""
NEW = tuple(range(200, 290))
"""Holds no token twice: there is nothing to guess."""


def limits(*, pads_rows: bool = False, position_cost: float = 0.0) -> RunnerLimits:
    return RunnerLimits(16, 4096, 300, False, pads_rows, position_cost)


def sequence(token_ids: SequenceOf[int] = COPYING, max_tokens: int = 100) -> Sequence:
    """As if it had decoded `token_ids` one by one, the first few apart."""
    one = Sequence(
        tuple(token_ids[:40]),
        SamplingParams(max_tokens + len(token_ids) - 40, temperature=0),
        scratch=np.empty(300, dtype=np.float32),
        timeout_s=9,
        sink=lambda output: None,
    )
    planner = DraftPlanner(7, limits())
    for token_id in token_ids[40:]:
        planner.plan([one])
        one.append(token_id)
    return one


class Guessing(Sequence):
    """A sequence whose guess is given: `chances` for tokens 0, 1, 2 and so on."""

    def __init__(self, *chances: float, num_tokens: int = 1) -> None:
        super().__init__(
            (1,) * num_tokens,
            SamplingParams(100, temperature=0),
            scratch=np.empty(300, dtype=np.float32),
            timeout_s=9,
            sink=lambda output: None,
        )
        self.lookup = self  # type: ignore[assignment]
        self._chances = chances

    def guess(self, token_ids: SequenceOf[int], max_tokens: int) -> Guess:
        chances = self._chances[:max_tokens]
        return Guess(tuple(range(len(chances))), chances)


NOTHING = Guessing()


def counts(
    sequences: SequenceOf[Sequence],
    *,
    pads_rows: bool = False,
    position_cost: float = 0.0,
    max_draft_tokens: int = 7,
    num_prompt_tokens: int = 0,
    after: int | None = None,
) -> list[int]:
    """Drafts of each in a step behind one of `after` tokens, by default of as many sequences."""
    planner = DraftPlanner(
        max_draft_tokens, limits(pads_rows=pads_rows, position_cost=position_cost)
    )
    planner.plan([NOTHING] * (len(sequences) if after is None else after))
    prompts = [num_prompt_tokens] if num_prompt_tokens else []
    return [len(drafts) for drafts in planner.plan(sequences, prompts)]


def test_one_that_copies_gets_all_drafts_and_one_that_does_not_gets_none() -> None:
    assert counts([sequence()]) == [7]
    assert counts([sequence(NEW)]) == [0]
    first, copying, third = counts([sequence(NEW), sequence(), sequence(NEW)])
    assert (first, third) == (0, 0)
    assert copying > 4


def test_drafts_are_what_stood_behind_the_match() -> None:
    (drafts,) = DraftPlanner(4, limits()).plan([sequence()])
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


def test_what_pays_alone_need_not_pay_among_many() -> None:
    """All wait for one's drafts, and a token more is dearer in a pass over many."""
    unsure, sure = Guessing(0.5, 0.1), Guessing(*[0.9] * 7)
    assert counts([unsure]) == [2]
    assert counts([unsure, NOTHING]) == [0, 0]
    assert counts([sure, NOTHING]) == [7, 0]
    assert counts([sure, *[NOTHING] * 3]) == [4, 0, 0, 0]
    assert counts([sure, *[NOTHING] * 7]) == [0] * 8


def test_all_eight_that_copy_share_the_drafts_of_a_step() -> None:
    assert counts([Guessing(*[0.95] * 7)] * 8) == [2] * 8


def test_another_size_than_the_last_pass_has_to_be_worth_it() -> None:
    unsure = Guessing(0.2, 0.03)
    assert counts([unsure], after=1) == [0]
    assert counts([unsure], after=2) == [1]
    assert counts([unsure], after=3) == [2]
    # Whatever it does, the pass is of another size: then only what it adds counts.
    assert counts([unsure], after=100) == [1]
    assert counts([Guessing()], after=2) == [0]


def test_a_size_once_chosen_is_kept_while_it_pays() -> None:
    planner = DraftPlanner(7, limits())
    begun, going_on = Guessing(*[0.9] * 7), Guessing(0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.04)
    assert [len(planner.plan([one])[0]) for one in (NOTHING, begun)] == [0, 7]
    assert len(planner.plan([going_on])[0]) == 7
    assert [len(planner.plan([one])[0]) for one in (NOTHING, going_on)] == [0, 5]


def test_the_likeliest_drafts_come_first_whoever_has_them() -> None:
    sure, less = Guessing(*[0.9] * 12), Guessing(0.8, 0.7, 0.2, 0.1, 0.05)
    assert counts([less, sure], max_draft_tokens=12) == [2, 12]


def test_far_into_a_text_drafts_cost_more_where_positions_cost() -> None:
    def at(num_tokens: int, position_cost: float, pads_rows: bool = False) -> int:
        sure = Guessing(*[0.8**k for k in range(1, 8)], num_tokens=num_tokens)
        return counts([sure], position_cost=position_cost, pads_rows=pads_rows)[0]

    for pads_rows in (False, True):
        assert at(4000, 0, pads_rows) == at(10, 0, pads_rows) == 7
        near, middle, far = (at(n, 1e-4, pads_rows) for n in (10, 1000, 8000))
        assert near == 7 > middle > far == 0


def test_beside_a_prompt_only_what_is_worth_its_full_cost_is_verified() -> None:
    unsure = Guessing(0.1)
    waiting = [NOTHING] * 7
    assert counts([unsure], num_prompt_tokens=64, after=100) == [1]
    assert counts([unsure, *waiting], num_prompt_tokens=64, after=100) == [0] * 8
    assert counts([Guessing(0.9, 0.8, 0.7)], num_prompt_tokens=64, after=100) == [3]


def test_what_options_cost_is_said_for_all_their_tokens() -> None:
    """Two sequences, 10 and 200 positions in; the second one's first draft is the likelier one."""
    candidates = [
        Candidate(Guess((7, 8), (0.5, 0.4)), 10),
        Candidate(Guess((9,), (0.6,)), 200),
    ]
    ragged = ragged_options(candidates, 5)
    assert [option.counts for option in ragged] == [(0, 0), (0, 1), (1, 1), (2, 1)]
    assert [option.num_tokens for option in ragged] == [7, 8, 9, 10]
    assert [option.num_positions for option in ragged] == [0, 400, 420, 430]
    # Of the tokens expected the sum of logarithms: 1 and 1, 1 and 1.6, 1.5 and 1.6, 1.9 and 1.6.
    products = [math.exp(option.gain) for option in ragged]
    assert products == pytest.approx([1, 1.6, 1.5 * 1.6, 1.9 * 1.6])
    padded = padded_options(candidates)
    assert [option.counts for option in padded] == [(0, 0), (1, 1), (2, 1)]
    assert [option.num_tokens for option in padded] == [2, 4, 6]
    assert [option.num_positions for option in padded] == [0, 420, 630]
    assert [math.exp(o.gain) for o in padded] == pytest.approx([1, 1.5 * 1.6, 1.9 * 1.6])


def test_where_rows_are_padded_others_pay_for_the_padding() -> None:
    sequences = [sequence(), *[_NEW_SEQUENCE] * 3]
    ragged, padded = counts(sequences), counts(sequences, pads_rows=True)
    assert ragged[1:] == padded[1:] == [0] * 3
    assert ragged[0] > 0 == padded[0]
    assert counts([sequence(), sequence()], pads_rows=True) == [7, 7]
    assert counts([sequence(), sequence(max_tokens=4)], pads_rows=True) == [5, 3]


_COPYING_SEQUENCE, _NEW_SEQUENCE = sequence(), sequence(NEW)
