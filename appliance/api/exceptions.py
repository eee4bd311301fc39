"""The one table from an error to its HTTP answer: status, OpenAI type, OpenAI code."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.types import ExceptionHandlersMap

from appliance import errors
from appliance.api.schemas import ErrorBody, ErrorDetail

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """How one class of errors is told to a client."""

    status: int
    type: str
    code: str | None


_INVALID = "invalid_request_error"
_SERVER = "server_error"

# The most specific class decides; every class that can reach a route has an entry of its own.
ANSWERS: dict[type[errors.ApplianceError], ErrorAnswer] = {
    errors.RequestError: ErrorAnswer(400, _INVALID, "invalid_value"),
    errors.ContextLengthExceededError: ErrorAnswer(400, _INVALID, "context_length_exceeded"),
    errors.ModelNotFoundError: ErrorAnswer(404, _INVALID, "model_not_found"),
    errors.PayloadTooLargeError: ErrorAnswer(413, _INVALID, "payload_too_large"),
    errors.QueueFullError: ErrorAnswer(429, "rate_limit_error", "queue_full"),
    errors.NotReadyError: ErrorAnswer(503, "service_unavailable_error", "not_ready"),
    errors.DeadlineExceededError: ErrorAnswer(504, _SERVER, "deadline_exceeded"),
    errors.EngineDeadError: ErrorAnswer(500, _SERVER, "engine_dead"),
    errors.BackendError: ErrorAnswer(500, _SERVER, "backend_error"),
}
_INTERNAL = ErrorAnswer(500, _SERVER, "internal_error")
_MISSING = re.compile(r"missing required field `(\w+)`")
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def answer_to(error: Exception) -> ErrorAnswer:
    """The answer to `error`; one that nobody foresaw is an internal error."""
    for kind in type(error).__mro__:
        if kind in ANSWERS:
            return ANSWERS[kind]
    return _INTERNAL


def error_body(error: Exception) -> ErrorBody:
    """The body for `error`, the same before a stream and inside one.

    Only errors made to be read show their text; any other is logged and told in general words.
    """
    answer = answer_to(error)
    if not isinstance(error, errors.ApplianceError):
        _log.error("internal error", exc_info=error)
        return ErrorBody(
            ErrorDetail("internal error; see the service's log", _SERVER, None, answer.code)
        )
    return ErrorBody(
        ErrorDetail(str(error), answer.type, getattr(error, "param", None), answer.code)
    )


def _appliance_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    headers = {}
    if isinstance(error, errors.OverloadError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.DeadlineExceededError):
        # OpenAI's clients would otherwise send a request again that has just proved too long.
        headers["x-should-retry"] = "false"
    return _response(answer_to(error).status, error_body(error), headers)


def _validation_error(_: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    param, message = _invalid_field(error)
    return _response(400, ErrorBody(ErrorDetail(message, _INVALID, param, "invalid_value")))


def _http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What the framework itself refuses: no such path, wrong method, no JSON, too large a body."""
    if error.status_code >= 500:
        return _response(error.status_code, error_body(error))
    message = error.detail
    if isinstance(error.__cause__, SerializationException):
        message = f"the body is not valid JSON: {message}"
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    detail = ErrorDetail(message, _INVALID, None, code)
    return _response(error.status_code, ErrorBody(detail), error.headers)


def _invalid_field(error: ValidationException) -> tuple[str | None, str]:
    """The field at fault and the reason, from what msgspec said through the framework.

    The framework's `data` stands for the whole body, where msgspec names a missing field itself.
    """
    extra = error.extra
    if not isinstance(extra, list) or not extra or not isinstance(extra[0], dict):
        return None, error.detail
    key, message = str(extra[0].get("key", "data")), str(extra[0].get("message", error.detail))
    if missing := _MISSING.search(message):
        param = missing[1] if key == "data" else key
        return _top_level(param), f"{param} is missing" if key == "data" else f"{key}: {message}"
    if key == "data":
        return None, "the body is empty" if message == "'data'" else f"the body: {message}"
    return _top_level(key), f"{key}: {message}"


def _top_level(key: str) -> str:
    return key.split(".")[0].split("[")[0]


def _response(
    status: int, body: ErrorBody, headers: dict[str, str] | None = None
) -> Response[bytes]:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=MediaType.JSON,
        headers=headers or {},
    )


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    errors.ApplianceError: _appliance_error,
    ValidationException: _validation_error,
    HTTPException: _http_error,
    Exception: _appliance_error,
}
