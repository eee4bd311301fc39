"""What a request may ask for besides its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.errors import RequestError

MAX_STOP_STRINGS = 16
MAX_ANSWERS = 8
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    """A request's wishes; None leaves the choice to the configuration, then to the manifest.

    `n` answers are asked for; `max_tokens_name` is what the client called its limit; `num_logprobs`
    as in `SamplingParams`. Raises `RequestError` for stop strings that are empty or too many;
    ranges are checked where they are used, in `SamplingParams`.
    """

    n: int = 1
    max_tokens: int | None = None
    max_tokens_name: str = "max_tokens"
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(
                f"{len(self.stop)} stop strings given, at most {MAX_STOP_STRINGS} are taken", "stop"
            )
        if not all(self.stop):
            raise RequestError("an empty stop string would end every answer at once", "stop")
