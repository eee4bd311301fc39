"""Every error this project raises on purpose.

ApplianceError
├── ConfigError                    a setting is unknown, of the wrong type or out of range
├── ModelDirError                  a model directory is missing, incomplete or of another format
├── BackendError                   the backend cannot be built or cannot compute
├── BindError                      the address is taken or not ours
├── EngineDeadError                the engine thread ended; only a restart helps
├── HostTuningError                this machine's knobs cannot be turned, or not all of them
├── DeadlineExceededError          a request ran out of its time
├── OverloadError                  try again later; carries `retry_after_s`
│   ├── QueueFullError             too many requests wait
│   ├── RateLimitError             more requests in a minute than one API key may send
│   └── NotReadyError              the model is still loading, or the service is draining
└── RequestError                   what the client sent cannot be served; carries `param`
    ├── InvalidAPIKeyError
    ├── ContextLengthExceededError
    ├── ModelNotFoundError
    └── PayloadTooLargeError

Errors carry data; `appliance/api/exceptions.py` alone turns them into HTTP. `exit_code` is what a
command ends with when the error reaches the top (the table stands in the README).
"""

from __future__ import annotations

from typing import ClassVar


class ApplianceError(Exception):
    """Base of all errors raised on purpose; its text is one line, made for people to read."""

    exit_code: ClassVar[int] = 1


class ConfigError(ApplianceError):
    """A setting that cannot be used.

    `key` is dotted (`server.port`), `value` what was given, `expected` what would have been right,
    `source` where the value stood (a file, an environment variable, an argument).
    """

    exit_code = 2

    def __init__(self, key: str, value: object, expected: str, source: str = "") -> None:
        self.key, self.value, self.expected, self.source = key, value, expected, source
        where = f" ({source})" if source else ""
        super().__init__(f"config: {key} = {value!r}{where}: {expected}")


class ModelDirError(ApplianceError):
    """A model directory that cannot be served; `path` names it."""

    exit_code = 3

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"model directory {path}: {reason}")


class BindError(ApplianceError):
    """The service cannot listen on the configured address."""

    exit_code = 4

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host, self.port = host, port
        super().__init__(f"cannot listen on {host}:{port}: {reason}")


class BackendError(ApplianceError):
    """The backend could not be built or could not compute; the cause is chained."""

    exit_code = 5


class EngineDeadError(ApplianceError):
    """The engine thread ended with an error; every later request fails until a restart."""

    exit_code = 6


class HostTuningError(ApplianceError):
    """This machine's knobs cannot be turned, or not all of them."""

    exit_code = 7


class DeadlineExceededError(ApplianceError):
    """A request was still waiting or running when its time was up."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        super().__init__(
            f"the request took longer than its limit of {limit_s:g} s "
            "(engine.request_timeout_s); ask for fewer tokens or send a shorter prompt"
        )


class OverloadError(ApplianceError):
    """Nothing is wrong with the request; it may be sent again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QueueFullError(OverloadError):
    """As many requests wait as the configuration allows."""


class RateLimitError(OverloadError):
    """One API key has sent as many requests in the last minute as it may."""


class NotReadyError(OverloadError):
    """The model is still loading, or the service is draining."""


class RequestError(ApplianceError):
    """The request cannot be served as it is; `param` names the field at fault, if one is."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class InvalidAPIKeyError(RequestError):
    """The request brings no API key, or one that is not known here."""


class ContextLengthExceededError(RequestError):
    """The prompt does not fit the context window with room for one token."""

    def __init__(self, num_prompt_tokens: int, max_model_len: int, param: str) -> None:
        self.num_prompt_tokens, self.max_model_len = num_prompt_tokens, max_model_len
        # LiteLLM knows this error by the first words (OpenAI's), LangChain by "prompt is too long".
        super().__init__(
            f"this model's maximum context length is {max_model_len} tokens, but the prompt is too "
            f"long: it has {num_prompt_tokens} tokens and at least one must be left for the "
            "answer; shorten it",
            param,
        )


class ModelNotFoundError(RequestError):
    """The request names a model that is not served here."""

    def __init__(self, model: str, served: str) -> None:
        self.model, self.served = model, served
        super().__init__(f"the model '{model}' does not exist here; '{served}' does", "model")


class PayloadTooLargeError(RequestError):
    """The request's body is larger than `server.max_body_bytes`."""
