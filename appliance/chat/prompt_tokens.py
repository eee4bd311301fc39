"""What a text or a conversation looks like to the model, without anything being computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.chat.template import ChatTemplate, Message, PromptEnd
from appliance.chat.tokenizer import Tokenizer
from appliance.errors import RequestError


class PromptTokens:
    """Texts to token ids and back, as the endpoints that generate do it. Thread-safe.

    `max_model_len` is the context window in tokens, `vocab_size` how many ids there are.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, *, max_model_len: int, vocab_size: int
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._vocab_size = vocab_size
        self.max_model_len = max_model_len

    def of_text(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """`add_special_tokens`: with the beginning that a text completion puts in front."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def of_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        end: PromptEnd | None,
    ) -> tuple[int, ...]:
        """With all that the chat template adds. Raises `RequestError` if it refuses them."""
        return self._tokenizer.encode(self._template.render(messages, tools, end=end))

    def of_ids(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """As they are. Raises `RequestError` for an id that this model does not have."""
        for token_id in token_ids:
            if not 0 <= token_id < self._vocab_size:
                raise RequestError(
                    f"the prompt holds token id {token_id}, this model has 0 to "
                    f"{self._vocab_size - 1}",
                    "prompt",
                )
        return tuple(token_ids)

    def written(self, token_ids: Sequence[int]) -> list[bytes]:
        """Each token by itself, special ones by their name.

        Raises `RequestError` for an id that this model does not have.
        """
        for token_id in token_ids:
            if token_id >= self._vocab_size:
                raise RequestError(
                    f"tokens holds {token_id}, this model has 0 to {self._vocab_size - 1}", "tokens"
                )
        return [self._tokenizer.written_out(token_id) for token_id in token_ids]
