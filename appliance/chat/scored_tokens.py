"""Tokens of an answer with what the model thought of them, handed out along with their text."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.chat.tokenizer import Tokenizer
from appliance.engine.token_scores import TokenScores


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token as it is written, special ones by their name, and its log-probability."""

    written: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One token of an answer, and the likeliest ones in its place, the likeliest first.

    `offset` is where it begins in the answer's text, in characters.
    """

    chosen: Candidate
    top: tuple[Candidate, ...]
    offset: int


class ScoredTokens:
    """Keeps tokens until the text they begin in is part of the answer.

    Text is held back while it may be a part of a character or of a stop string; what turns out to
    be a stop string never gets out, and neither do the tokens that begin in it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[ScoredToken] = []
        self._num_read = 0
        self._num_shown = 0

    def add(self, token_id: int, scores: TokenScores, text: str) -> None:
        """The answer's next token, that completed `text`."""
        top = tuple(self._candidate(i, logprob) for i, logprob in scores.top)
        chosen = self._candidate(token_id, scores.logprob)
        self._held.append(ScoredToken(chosen, top, self._num_read))
        self._num_read += len(text)

    def shown(self, text: str, *, is_last: bool) -> tuple[ScoredToken, ...]:
        """The tokens that begin in `text`, which is the next part of the answer.

        With `is_last` also those behind it: no more text comes, and it ends with no stop string.
        """
        self._num_shown += len(text)
        due = [t for t in self._held if is_last or t.offset < self._num_shown]
        self._held = self._held[len(due) :]
        return tuple(due)

    def _candidate(self, token_id: int, logprob: float) -> Candidate:
        return Candidate(self._tokenizer.written_out(token_id), logprob)
