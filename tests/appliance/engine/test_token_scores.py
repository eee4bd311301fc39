"""Log-probabilities: against the definition, with ties, with large vocabularies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.token_scores import score


def logits(rows: int, vocab_size: int, spread: float = 5.0) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(3, spread, (rows, vocab_size)).astype(np.float32)


def log_softmax(row: NDArray[np.float32]) -> list[float]:
    exact = [float(x) for x in row]
    highest = max(exact)
    total = math.log(math.fsum(math.exp(x - highest) for x in exact)) + highest
    return [x - total for x in exact]


@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
@pytest.mark.parametrize("vocab_size", [20, 50_000])
def test_it_is_the_log_softmax(vocab_size: int, num_top: int) -> None:
    rows = logits(3, vocab_size)
    for row, token_id, scores in zip(
        rows, (0, 7, 19), score(rows, (0, 7, 19), num_top), strict=True
    ):
        exact = log_softmax(row)
        assert scores.logprob == pytest.approx(exact[token_id], abs=1e-5)
        ranked = sorted(range(vocab_size), key=lambda i: -exact[i])[:num_top]
        assert [i for i, _ in scores.top] == ranked
        assert [p for _, p in scores.top] == pytest.approx([exact[i] for i in ranked], abs=1e-5)


def test_all_probabilities_together_are_one() -> None:
    row = logits(1, 100)
    ((scores),) = score(row, (0,), 100)
    assert math.fsum(math.exp(p) for _, p in scores.top) == pytest.approx(1, abs=1e-6)


def test_more_than_there_are() -> None:
    (scores,) = score(logits(1, 5), (0,), 20)
    assert len(scores.top) == 5


def test_of_equally_likely_ones_the_smaller_id_comes_first() -> None:
    row = np.array([[1, 3, 2, 3, 3]], dtype=np.float32)
    (scores,) = score(row, (2,), 4)
    assert [i for i, _ in scores.top] == [1, 3, 4, 2]
    assert len({p for _, p in scores.top[:3]}) == 1


def test_in_a_large_vocabulary_too_of_equally_likely_ones_the_smaller_id_comes_first() -> None:
    row = np.zeros((1, 50_000), dtype=np.float32)
    row[0, [49_999, 12_000, 11_000, 600]] = 3
    (scores,) = score(row, (2,), 7)
    assert [i for i, _ in scores.top] == [600, 11_000, 12_000, 49_999, 0, 1, 2]


def test_a_certain_token_and_an_impossible_one() -> None:
    row = np.full((1, 1000), -200, dtype=np.float32)
    row[0, 3] = 200
    certain, impossible = (score(row, (token_id,), 1)[0] for token_id in (3, 4))
    assert certain.logprob == pytest.approx(0, abs=1e-6)
    assert impossible.logprob == pytest.approx(-400)


def test_rows_behind_the_last_token_chosen_do_not_count() -> None:
    """Drafts that were rejected have logits, too."""
    assert len(score(logits(4, 50), (1, 2), 3)) == 2


def test_the_logits_are_left_as_they_are() -> None:
    rows = logits(1, 50)
    before = rows.copy()
    score(rows, (1,), 5)
    assert (rows == before).all()
