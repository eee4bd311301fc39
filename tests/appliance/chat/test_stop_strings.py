"""Stop strings in text that comes in pieces: found however it is cut, no part of one let out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.chat.stop_strings import StopStrings


def reference(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The meaning: read until some stop string is complete, and cut where the longest one that
    is complete there began."""
    for end in range(1, len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def feed(stop: Sequence[str], pieces: Iterable[str]) -> tuple[list[str], bool]:
    filter_ = StopStrings(stop)
    shown = [filter_.feed(piece) for piece in pieces]
    return [*shown, filter_.finish()], filter_.stopped


# Few letters and short words, so that beginnings of stop strings are everywhere.
words = st.text("ab你\n", min_size=1, max_size=4)


@given(text=st.text("ab你\n", max_size=30), stop=st.lists(words, max_size=4), data=st.data())
def test_the_cuts_do_not_matter(text: str, stop: list[str], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text))))
    edges = sorted({0, len(text), *cuts})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    expected = reference(text, stop)
    for some_pieces in (pieces, list(text), [text]):
        shown, stopped = feed(stop, some_pieces)
        assert ("".join(shown), stopped) == expected


@given(text=st.text("ab", max_size=20), stop=st.lists(st.text("ab", min_size=1, max_size=4)))
def test_what_was_shown_is_never_taken_back_and_never_late(text: str, stop: list[str]) -> None:
    """After each character, all is shown but what may still begin a stop string."""
    filter_, shown = StopStrings(stop), ""
    for end in range(1, len(text) + 1):
        shown += filter_.feed(text[end - 1])
        answer, stopped = reference(text[:end], stop)
        assert filter_.stopped == stopped
        if stopped:
            assert shown == answer
            return
        held = text[len(shown) : end]
        assert shown + held == text[:end]
        longest = max(
            (n for s in stop for n in range(1, len(s)) if text[:end].endswith(s[:n])), default=0
        )
        assert len(held) == longest


def test_a_look_alike_is_shown_as_soon_as_it_is_one() -> None:
    filter_ = StopStrings(["END."])
    assert [filter_.feed(c) for c in "The EN"] == ["T", "h", "e", " ", "", ""]
    assert filter_.feed("E") == "EN"
    assert filter_.feed("ND") == ""
    assert filter_.feed("!") == "END!"
    assert not filter_.stopped


def test_what_is_held_when_the_answer_ends_belongs_to_it() -> None:
    filter_ = StopStrings(["<|im_end|>"])
    assert filter_.feed("done <|im") == "done "
    assert filter_.finish() == "<|im"
    assert filter_.finish() == ""


def test_nothing_comes_behind_a_stop_string() -> None:
    filter_ = StopStrings(["\n\n"])
    assert filter_.feed("one\n") == "one"
    assert filter_.feed("\ntwo") == ""
    assert filter_.stopped
    assert filter_.feed("three\n\nfour") == ""
    assert filter_.finish() == ""


@pytest.mark.parametrize(
    ("stop", "text", "answer"),
    [
        (["abcd", "bc"], "xabcd", "xa"),  # complete first wins, though it began later
        (["bc", "abc"], "xabc", "x"),  # complete together: all of both is left out
        (["aab"], "aaab", "a"),  # the beginning may lie inside a failed beginning
        (["ab", "ab"], "zab", "z"),
        (["停"], "请停下", "请"),
        (["\U0001f44d\U0001f3fd"], "ok \U0001f44d\U0001f3fe", "ok \U0001f44d\U0001f3fe"),
    ],
)
def test_overlaps(stop: list[str], text: str, answer: str) -> None:
    for pieces in ([text], list(text)):
        shown, _ = feed(stop, pieces)
        assert "".join(shown) == answer


def test_without_stop_strings_everything_passes_at_once() -> None:
    filter_ = StopStrings([])
    assert filter_.feed("any\n") == "any\n"
    assert filter_.finish() == ""
    assert not filter_.stopped
