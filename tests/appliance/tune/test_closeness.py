"""Whether two sets of logits are the same answer."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.tune.closeness import MAX_MEAN_KL, NEAR_TIE, mean_kl, objection

DEFAULT = np.array([[9, 1, 0, 0], [0, 8, 7.7, 0], [0, 0, 0, 9]], dtype=np.float32)


def changed(position: int, token_id: int, logit: float) -> np.ndarray:
    logits = DEFAULT.copy()
    logits[position, token_id] = logit
    return logits


def test_equal_logits_are_close() -> None:
    assert objection(DEFAULT, DEFAULT.copy()) is None
    assert mean_kl(DEFAULT, DEFAULT + 3) == pytest.approx(0, abs=1e-6)  # a shift means nothing


def test_another_token_at_a_near_tie_is_the_same_answer() -> None:
    assert NEAR_TIE > 0.3
    near = changed(1, 2, 8.1)
    assert near[1].argmax() != DEFAULT[1].argmax()
    assert objection(DEFAULT, near) is None


def test_another_token_elsewhere_is_not() -> None:
    assert objection(DEFAULT, changed(0, 1, 9.1)) == (
        "token 1 of the golden answer is another one, 8.00 behind the default's (limit 0.5)"
    )


def test_the_same_tokens_with_other_probabilities_are_not() -> None:
    flat = DEFAULT / 3
    assert (flat.argmax(axis=1) == DEFAULT.argmax(axis=1)).all()
    assert mean_kl(DEFAULT, flat) > MAX_MEAN_KL
    assert "nats from the default's" in (objection(DEFAULT, flat) or "")


def test_kl_is_what_the_definition_says() -> None:
    p, q = np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]])
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    found = mean_kl(np.log(p).astype(np.float32), np.log(q).astype(np.float32))
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_number_at_all_is_not_close() -> None:
    assert objection(DEFAULT, np.full_like(DEFAULT, np.nan)) is not None
