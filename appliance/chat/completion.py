"""One running completion: the only generator there is, for streams and for whole answers alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from appliance.chat.detokenizer import Detokenizer
from appliance.chat.scored_tokens import ScoredToken, ScoredTokens
from appliance.chat.stop_strings import StopStrings
from appliance.chat.tool_parser import CallDelta, Parsed, ToolCallParser
from appliance.engine.generation import Generation
from appliance.engine.sequence import FinishReason, StepOutput


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. Only the last one has a `finish_reason`, and its text may be empty.

    `tokens` are those that begin in it, if they are scored. `calls` are pieces of tool calls, which
    come behind all text.
    """

    text: str
    finish_reason: FinishReason | None
    tokens: tuple[ScoredToken, ...] = ()
    calls: tuple[CallDelta, ...] = ()


class Completion:
    """The answer to one prompt, while `generation` makes it. Its counts grow with every delta.

    `on_complete` is called when the answer has come to its own end, whatever that was. `scored`
    takes the tokens' scores, if there are any, and `parser` finds the tool calls, if there may be
    some. Whoever holds it calls `abort()` when done with it, however that came about.
    """

    def __init__(
        self,
        generation: Generation,
        detokenizer: Detokenizer,
        stop: StopStrings,
        *,
        num_prompt_tokens: int,
        scored: ScoredTokens | None = None,
        parser: ToolCallParser | None = None,
        on_complete: Callable[[Generation], None] = lambda generation: None,
    ) -> None:
        self.generation = generation
        self._detokenizer = detokenizer
        self._stop = stop
        self._scored = scored
        self._parser = parser
        self._held: tuple[ScoredToken, ...] = ()
        self._on_complete = on_complete
        self.num_prompt_tokens = num_prompt_tokens
        self.num_cached_tokens = 0
        self.num_output_tokens = 0

    async def deltas(self) -> AsyncIterator[Delta]:
        """Pieces of the answer as they come; to be iterated once.

        Tokens that complete no character, or may begin a stop string, come with a later delta.
        Raises the `ApplianceError` that ended the answer, if one did.
        """
        try:
            async for output in self.generation.outputs():
                self.num_cached_tokens = output.num_cached_tokens
                text = self._feed(output)
                if output.finish_reason is not None:
                    # An answer that was cut may be cut inside a character, which the model would
                    # have gone on with: it has written nothing that is no text.
                    if output.finish_reason is FinishReason.STOP:
                        text += self._stop.feed(self._detokenizer.finish())
                    text += self._stop.finish()
                reason = output.finish_reason
                if self._stop.stopped:
                    reason = FinishReason.STOP
                    self.generation.stop()
                delta = self._delta(text, reason)
                if delta.text or delta.calls or reason is not None:
                    yield delta
                if reason is not None:
                    if reason is not FinishReason.ABORT:
                        self._on_complete(self.generation)
                    return
        finally:
            self.abort()

    def _feed(self, output: StepOutput) -> str:
        """The text that one step's tokens complete, up to a stop string.

        One by one, so that those behind a stop string are not counted, however many a step gave.
        """
        text = ""
        for place, token_id in enumerate(output.token_ids):
            if self._stop.stopped:
                break
            self.num_output_tokens += 1
            completed = self._detokenizer.feed((token_id,))
            if self._scored is not None:
                self._scored.add(token_id, output.scores[place], completed)
            text += self._stop.feed(completed)
        return text

    def _delta(self, text: str, reason: FinishReason | None) -> Delta:
        """What `text` comes down to; what the parser holds back keeps its tokens back."""
        tokens = self._held + self._tokens_of(text, reason)
        if self._parser is None:
            parsed = Parsed(text, ())
        elif reason is None:
            parsed = self._parser.feed(text)
        else:
            parsed = self._parser.feed_last(text, cut=reason is not FinishReason.STOP)
        told = parsed.text or parsed.calls or reason is not None
        self._held = () if told else tokens
        return Delta(parsed.text, reason, tokens if told else (), parsed.calls)

    def _tokens_of(self, text: str, reason: FinishReason | None) -> tuple[ScoredToken, ...]:
        if self._scored is None:
            return ()
        return self._scored.shown(text, is_last=reason is not None and not self._stop.stopped)

    def abort(self) -> None:
        """Stop computing, if it still goes on. Idempotent."""
        self.generation.abort()
