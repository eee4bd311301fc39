"""Token ids to text as they come, never a broken character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from appliance.chat.tokenizer import Tokenizer


class Detokenizer:
    """Feed token ids, get text; bytes of an unfinished character wait for the rest of it.

    What the model wrote wrongly (bytes that are no UTF-8) becomes U+FFFD, as decoding the whole
    answer at once would make it: the texts of all calls together are that decoded answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text that `token_ids` complete."""
        return self._decoder.decode(b"".join(map(self._tokenizer.token_bytes, token_ids)))

    def finish(self) -> str:
        """What is left when the model has ended: U+FFFD for a character begun and not ended."""
        return self._decoder.decode(b"", final=True)
