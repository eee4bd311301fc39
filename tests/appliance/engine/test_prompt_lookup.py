"""What is guessed, and how sure of it: against a search written out, over texts of few tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.prompt_lookup import Guess, PromptLookup

MAX_MATCH = 8
texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def searched(text: list[int], count: int) -> tuple[tuple[int, ...], int]:
    """The guess and the length of the match it stands behind, found by trying every place."""
    for length in range(min(MAX_MATCH, len(text) - 1), 0, -1):
        for end in range(len(text) - 1, length - 1, -1):
            if text[end - length : end] == text[-length:]:
                behind = text[end:]
                return tuple((behind * count)[:count]), length
    return (), 0


def hit_rate(lookup: PromptLookup, text: list[int]) -> float:
    (chance,) = lookup.guess(text, 1).chances
    return chance


@given(texts, st.integers(1, 9))
def test_what_followed_the_longest_and_then_the_latest_match_is_guessed(
    text: list[int], count: int
) -> None:
    expected, length = searched(text, count)
    guess = PromptLookup().guess(text, count)
    assert guess.token_ids == expected
    assert len(guess.chances) == len(expected) == (count if length else 0)


@given(texts, st.lists(st.integers(1, 5), max_size=20), st.integers(1, 5))
def test_a_text_that_grew_is_searched_like_one_that_came_whole(
    text: list[int], steps: list[int], count: int
) -> None:
    lookup, end = PromptLookup(), 1
    for step in steps:
        lookup.guess(text[:end], count)
        end = min(len(text), end + step)
    assert lookup.guess(text[:end], count).token_ids == searched(text[:end], count)[0]


@given(texts)
def test_a_longer_guess_begins_with_the_shorter_one(text: list[int]) -> None:
    short, long = PromptLookup().guess(text, 2), PromptLookup().guess(text, 7)
    assert (long.token_ids[:2], long.chances[:2]) == (short.token_ids, short.chances)


@given(texts, st.lists(st.integers(0, 3), max_size=40))
def test_chances_are_probabilities_that_never_grow_along_a_guess(
    text: list[int], answer: list[int]
) -> None:
    lookup = PromptLookup()
    for end in range(len(answer) + 1):
        chances = lookup.guess(text + answer[:end], 6).chances
        assert all(0 <= chance <= 1 for chance in chances)
        assert list(chances) == sorted(chances, reverse=True)


@pytest.mark.parametrize("text", [[5], [1, 2, 3], list(range(300))])
def test_a_token_that_was_never_there_gives_no_guess(text: list[int]) -> None:
    assert PromptLookup().guess(text, 4) == Guess((), ())


def test_a_repetition_goes_on_for_as_long_as_wanted() -> None:
    assert PromptLookup().guess([9, 1, 2, 1, 2], 5).token_ids == (1, 2, 1, 2, 1)
    assert PromptLookup().guess([7, 7], 4).token_ids == (7, 7, 7, 7)


def test_texts_longer_than_the_first_buffer_keep_their_beginning() -> None:
    lookup, text = PromptLookup(), [1, 2, 3, *range(10, 1500)]
    lookup.guess(text, 3)
    text += [1, 2]
    assert lookup.guess(text, 3).token_ids == (3, 10, 11)


def test_hits_raise_what_is_expected_and_misses_lower_it() -> None:
    lookup, text = PromptLookup(), [1, 2, 3, 4, 5, 6, 1, 2]
    before = hit_rate(lookup, text)
    text += [3, 7, 1, 2]  # a hit behind two tokens, then a miss behind three, then new
    after_hit = hit_rate(lookup, text)
    assert after_hit > before
    for number in range(30):
        text += [20 + number, 1, 2]  # the most recent guess is never right
        lookup.guess(text, 1)
    assert hit_rate(lookup, text) < 0.05 < before


def test_learning_needs_no_drafts_and_notices_that_copying_begins() -> None:
    """Nothing is verified here: guesses are compared with what came one token at a time."""
    document = [*range(100, 160), *range(200, 260)]
    lookup, text = PromptLookup(), list(document)
    for number in range(60):
        text += [5, 300 + number]
        lookup.guess(text[:-1], 7)
        lookup.guess(text, 7)
    assert sum(lookup.guess([*text, 5], 7).chances) < 0.2, "nothing it guessed ever came"
    text += [5, *document[:6]]
    expected = []
    for token_id in document[6:30]:
        expected.append(sum(lookup.guess(text, 7).chances))
        text.append(token_id)
    assert expected[-1] > 5


def test_all_tokens_that_a_step_gave_are_learnt_from() -> None:
    document = list(range(100, 200))
    one_by_one, at_once = PromptLookup(), PromptLookup()
    text = [*document, *document[:10]]
    for end in range(len(text), len(text) + 24):
        one_by_one.guess([*document, *document[: end - 100]], 7)
    for end in range(len(text), len(text) + 24, 8):
        at_once.guess([*document, *document[: end - 100]], 7)
    text = [*document, *document[:34]]
    left, right = one_by_one.guess(text, 7), at_once.guess(text, 7)
    assert left.chances == pytest.approx(right.chances)
