"""Prompts: as long as wanted, never the same beginning twice."""

from itertools import pairwise

import pytest
from scripted_server import shared_length

from appliance.bench.prompts import Calibration, PromptMaker, calibration
from appliance.bench.words import CHINESE, ENGLISH


def maker(language: str = "en", seed: int = 1, *, system_message: bool = True) -> PromptMaker:
    return PromptMaker(language, seed, system_message=system_message)  # type: ignore[arg-type]


def test_the_words_are_different() -> None:
    assert len(set(ENGLISH)) == len(ENGLISH) > 400
    assert len(set(CHINESE)) == len(CHINESE) >= 200


def test_the_same_seed_makes_the_same_prompts() -> None:
    one, two, other = maker(seed=5), maker(seed=5), maker(seed=6)
    made = [one.opening(20) for _ in range(3)]
    assert made == [two.opening(20) for _ in range(3)]
    assert made != [other.opening(20) for _ in range(3)]
    assert made[0] != made[1]


@pytest.mark.parametrize("language", ["en", "zh", "mixed"])
def test_a_hundred_conversations_share_hardly_any_beginning(language: str) -> None:
    prompts = maker(language)
    texts = sorted(
        "".join(message["content"] for message in prompts.opening(30)) for _ in range(100)
    )
    # The longest beginning that two texts share is found between neighbours in the sorted list.
    shared = [shared_length(one, two) for one, two in pairwise(texts)]
    assert max(shared) < 20
    assert len(set(texts)) == 100


def test_languages_use_their_words() -> None:
    assert any(word in maker("zh").opening(5)[1]["content"] for word in CHINESE)
    text = maker("mixed").opening(60)[1]["content"]
    assert any(word in text for word in CHINESE)
    assert any(word in text for word in ENGLISH)


def test_without_a_system_message_the_beginning_is_still_random() -> None:
    prompts = maker(system_message=False)
    first, second = prompts.opening(4), prompts.opening(4)
    assert [message["role"] for message in first] == ["user"]
    assert shared_length(first[0]["content"], second[0]["content"]) < 20


def test_the_next_turn_begins_with_the_whole_conversation() -> None:
    prompts = maker()
    opening = prompts.opening(5)
    turn = prompts.next_turn(opening, "an answer")
    assert turn[:2] == opening
    assert turn[2] == {"role": "assistant", "content": "an answer"}
    assert turn[3]["role"] == "user"
    assert len(turn[3]["content"]) < 80


def test_calibration_is_the_line_through_both_counts() -> None:
    found = calibration([(8, 46), (64, 158)])
    assert found == Calibration(tokens_per_word=2, fixed_tokens=30, measured=True)
    assert found.words_for(256) == 113
    assert found.words_for(5) == 1


@pytest.mark.parametrize(
    "counts", [[(8, None), (64, None)], [(8, 9), (64, 9)], [(8, 9), (64, None)]]
)
def test_counts_that_tell_nothing_leave_a_guess(counts: list[tuple[int, int | None]]) -> None:
    assert not calibration(counts).measured
