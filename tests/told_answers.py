"""A "model" that answers by what it was sent, for clients that hold whole conversations."""

from __future__ import annotations

from collections.abc import Sequence

from tests.fakes import NextToken


def told(rules: Sequence[tuple[str, str]], prompt_end: Sequence[int], end: int) -> NextToken:
    """A "model" of one token per byte that answers the text of the first rule whose other text
    stands in the prompt, and then `end`; nothing where there is none.
    """
    length = len(prompt_end)

    def next_token(token_ids: Sequence[int]) -> int:
        start = len(token_ids) - length
        while start > 0 and list(token_ids[start : start + length]) != list(prompt_end):
            start -= 1
        prompt = bytes(i for i in token_ids[:start] if i < 256).decode(errors="replace")
        answer = next((text for words, text in rules if words in prompt), "").encode()
        said = len(token_ids) - start - length
        return answer[said] if said < len(answer) else end

    return next_token
