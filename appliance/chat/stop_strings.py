"""Finds stop strings in text as it comes, and never lets a part of one out."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Feed text, get the text that may be shown; `stopped` once a stop string was complete.

    Text that may still turn out to be the beginning of a stop string is held back. The answer is
    the text before the stop string that is complete first; the stop string and all behind it are
    not.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        assert all(stop)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is certainly part of the answer now."""
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        held = self._held + text
        # The one that is complete first, so that it does not matter in which pieces the text comes.
        found = [(at + len(stop), at) for stop in self._stop if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)[1]]
        keep = max(_overlap(held, stop) for stop in self._stop)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
