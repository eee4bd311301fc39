"""One running completion: the only generator there is, for streams and for whole answers alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from appliance.chat.detokenizer import Detokenizer
from appliance.chat.stop_strings import StopStrings
from appliance.engine.generation import Generation
from appliance.engine.sequence import FinishReason


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. Only the last one has a `finish_reason`, and its text may be empty."""

    text: str
    finish_reason: FinishReason | None


class Completion:
    """The answer to one prompt, while it is made. Its counts grow with every delta.

    `on_complete` is called when the answer has come to its own end, whatever that was.
    Whoever holds it calls `abort()` when done with it, however that came about.
    """

    def __init__(
        self,
        generation: Generation,
        detokenizer: Detokenizer,
        stop: StopStrings,
        *,
        num_prompt_tokens: int,
        on_complete: Callable[[Generation], None] = lambda generation: None,
    ) -> None:
        self._generation = generation
        self._detokenizer = detokenizer
        self._stop = stop
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
            async for output in self._generation.outputs():
                self.num_cached_tokens = output.num_cached_tokens
                text = self._feed(output.token_ids)
                if output.finish_reason is not None:
                    text += self._stop.feed(self._detokenizer.finish()) + self._stop.finish()
                reason = output.finish_reason
                if self._stop.stopped:
                    reason = FinishReason.STOP
                    self._generation.stop()
                if text or reason is not None:
                    yield Delta(text, reason)
                if reason is not None:
                    if reason is not FinishReason.ABORT:
                        self._on_complete(self._generation)
                    return
        finally:
            self.abort()

    def _feed(self, token_ids: Sequence[int]) -> str:
        """The text that one step's tokens complete, up to a stop string.

        One by one, so that those behind a stop string are not counted, however many a step gave.
        """
        text = ""
        for token_id in token_ids:
            if self._stop.stopped:
                break
            self.num_output_tokens += 1
            text += self._stop.feed(self._detokenizer.feed((token_id,)))
        return text

    def abort(self) -> None:
        """Stop computing, if it still goes on. Idempotent."""
        self._generation.abort()
