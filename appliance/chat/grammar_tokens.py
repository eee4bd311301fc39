"""The model's vocabulary in the form in which llguidance searches it for tokens that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from llguidance import LLTokenizer, TokenizerWrapper

from appliance.chat.tokenizer import Tokenizer


class _Vocabulary:
    """What llguidance asks of a tokenizer: a table of bytes, and to encode a text."""

    bos_token_id: int | None = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.special_token_ids = sorted(i for i in tokenizer.special_ids if i < vocab_size)
        self.tokens = [tokenizer.written_out(i) for i in range(vocab_size)]
        self._tokenizer = tokenizer
        names = (self.tokens[i].decode() for i in self.special_token_ids)
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def __call__(self, text: str) -> list[int]:
        """`text` as a model would write it: the name of a special token in it is text, too."""
        # A name that is cut behind its first character is not recognised.
        cuts = [0, *(found.start() + 1 for found in self._special.finditer(text)), len(text)]
        return [i for start, end in pairwise(cuts) for i in self._tokenizer.encode(text[start:end])]


def grammar_tokens(
    tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]
) -> LLTokenizer:
    """Token ids from 0 to `vocab_size`, of which `eos_token_ids`, at least one, end an answer.

    Of 150,000 tokens it takes about 50 MB and a second, in half of which no other Python code
    runs: it is made once, and only if a request needs it.
    """
    vocabulary = TokenizerWrapper(_Vocabulary(tokenizer, vocab_size, eos_token_ids[0]))
    tokens = LLTokenizer(vocabulary, n_vocab=vocab_size, eos_token=list(eos_token_ids))
    # It has its own copy by now and keeps the wrapper to encode texts with.
    vocabulary.tokens = []
    return tokens
