"""One chunk's logits to tokens: as far as the drafts are right, and not a token further."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Chunk, Slot
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import FinishReason, Sequence
from appliance.engine.verification import Verified, verify

VOCAB_SIZE = 32


def sequence(params: SamplingParams) -> Sequence:
    scratch = np.empty(VOCAB_SIZE, dtype=np.float32)
    return Sequence((1, 2, 3), params, scratch=scratch, timeout_s=9, sink=lambda output: None)


def rows(*token_ids: int) -> NDArray[np.float32]:
    """Logits that put all weight on one token each."""
    logits = np.full((len(token_ids), VOCAB_SIZE), -20, dtype=np.float32)
    logits[range(len(token_ids)), token_ids] = 20
    return logits


def verified(drafts: tuple[int, ...], chosen: tuple[int, ...], **params: object) -> Verified:
    """The model chooses `chosen` behind the sequence's last token and its `drafts`."""
    one = sequence(SamplingParams(**{"max_tokens": 10, "temperature": 0, **params}))  # type: ignore[arg-type]
    result = verify(one, Chunk(Slot(0), (3, *drafts), 2, len(drafts) + 1), rows(*chosen))
    assert tuple(one.token_ids[3:]) == result.token_ids
    assert (one.num_drafted_tokens, one.num_accepted_tokens) == (len(drafts), result.num_accepted)
    return result


def test_without_drafts_it_is_one_token() -> None:
    assert verified((), (7,)) == Verified((7,), None, 1, 0, 0)


def test_all_drafts_right_give_one_token_more_than_those() -> None:
    assert verified((7, 8, 9), (7, 8, 9, 10)) == Verified((7, 8, 9, 10), None, 4, 3, 3)


@pytest.mark.parametrize(("drafts", "count"), [((5, 8, 9), 1), ((7, 5, 9), 2), ((7, 8, 5), 3)])
def test_the_first_wrong_draft_is_replaced_and_nothing_behind_it_counts(
    drafts: tuple[int, ...], count: int
) -> None:
    result = verified(drafts, (7, 8, 9, 10))
    assert result == Verified((7, 8, 9)[:count], None, count, 3, count - 1)


def test_a_stop_token_ends_the_answer_in_the_middle_of_right_drafts() -> None:
    result = verified((7, 8, 9), (7, 8, 9, 10), stop_token_ids=frozenset({8}))
    assert result == Verified((7,), FinishReason.STOP, 2, 3, 1)


def test_the_answer_is_full_with_the_token_behind_the_drafts() -> None:
    result = verified((7, 8), (7, 8, 9), max_tokens=3)
    assert result == Verified((7, 8, 9), FinishReason.LENGTH, 3, 2, 2)


def test_more_drafts_than_the_answer_may_have_do_not_make_it_longer() -> None:
    result = verified((7, 8, 9), (7, 8, 9, 10), max_tokens=2)
    assert (result.token_ids, result.finish_reason) == ((7, 8), FinishReason.LENGTH)
    assert result.num_kept <= 3


def test_a_prompt_s_chunk_has_no_drafts() -> None:
    one = sequence(SamplingParams(10, temperature=0))
    inside = verify(one, Chunk(Slot(0), (1, 2), 0, 0), rows())
    assert inside == Verified((), None, 2, 0, 0)
    end = verify(one, Chunk(Slot(0), (1, 2, 3), 0, 1), rows(9))
    assert end == Verified((9,), None, 3, 0, 0)
    assert one.num_drafted_tokens == 0


def test_penalties_count_accepted_tokens_in_order() -> None:
    """The second 7 loses to 8 only because the first one, a draft, was counted as said."""
    logits = np.full((3, VOCAB_SIZE), -20, dtype=np.float32)
    logits[:, 7], logits[:, 8] = 1.0, 0.5
    one = sequence(SamplingParams(10, temperature=0, presence_penalty=0.8))
    result = verify(one, Chunk(Slot(0), (3, 7, 8), 2, 3), logits)
    assert result.token_ids == (7, 8, 7)


def test_one_random_number_per_token_of_the_answer_whatever_the_drafts() -> None:
    """Sampled from flat logits, where most drafts are wrong: a step later or earlier, the n-th
    token of the answer is drawn with the n-th number."""
    logits = np.zeros((4, VOCAB_SIZE), dtype=np.float32)

    def answer(drafts: tuple[int, ...]) -> list[int]:
        one = sequence(SamplingParams(12, temperature=1, seed=5))
        while one.num_output_tokens < 8:
            chunk = Chunk(Slot(0), (0, *drafts), 0, len(drafts) + 1)
            verify(one, chunk, logits[: len(drafts) + 1])
        return one.token_ids[3:11]

    alone = answer(())
    assert answer((alone[0], alone[1], 3)) == answer((9, 9, 9)) == alone


def test_drafts_do_not_change_how_often_a_token_is_drawn() -> None:
    """The draft is a token of probability 0.5 for the model: it comes in half of the answers, and
    the token behind it is distributed as it is behind that token."""
    logits = np.full((2, VOCAB_SIZE), -20, dtype=np.float32)
    logits[0, [4, 5, 6]] = np.log([0.5, 0.3, 0.2])
    logits[1, [7, 8]] = np.log([0.75, 0.25])
    firsts, seconds = [], []
    for seed in range(4000):
        one = sequence(SamplingParams(4, temperature=1, seed=seed))
        token_ids = verify(one, Chunk(Slot(0), (3, 4), 2, 2), logits).token_ids
        assert len(token_ids) == (2 if token_ids[0] == 4 else 1)
        firsts.append(token_ids[0])
        seconds += token_ids[1:]
    # Four standard deviations of 4,000 draws are 0.03, of 2,000 draws 0.04.
    assert [firsts.count(i) / len(firsts) for i in (4, 5, 6)] == pytest.approx(
        [0.5, 0.3, 0.2], abs=0.035
    )
    assert [seconds.count(i) / len(seconds) for i in (7, 8)] == pytest.approx(
        [0.75, 0.25], abs=0.045
    )
