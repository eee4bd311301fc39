"""The one table from an error to its HTTP answer: status, OpenAI type, OpenAI code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.datastructures import Headers
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ExceptionHandlersMap

from appliance import errors
from appliance.api.request_id import REQUEST_ID
from appliance.api.schemas import ErrorBody, ErrorDetail

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """How one class of errors is told to a client."""

    status: int
    type: str
    code: str


_INVALID = "invalid_request_error"
_SERVER = "server_error"

# The most specific class decides; every class that can reach a route has an entry of its own.
ANSWERS: dict[type[errors.ApplianceError], ErrorAnswer] = {
    errors.RequestError: ErrorAnswer(400, _INVALID, "invalid_value"),
    errors.InvalidAPIKeyError: ErrorAnswer(401, _INVALID, "invalid_api_key"),
    errors.ContextLengthExceededError: ErrorAnswer(400, _INVALID, "context_length_exceeded"),
    errors.ModelNotFoundError: ErrorAnswer(404, _INVALID, "model_not_found"),
    errors.PayloadTooLargeError: ErrorAnswer(413, _INVALID, "payload_too_large"),
    errors.QueueFullError: ErrorAnswer(429, "rate_limit_error", "queue_full"),
    errors.RateLimitError: ErrorAnswer(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.NotReadyError: ErrorAnswer(503, "service_unavailable_error", "not_ready"),
    errors.DeadlineExceededError: ErrorAnswer(504, _SERVER, "deadline_exceeded"),
    errors.EngineDeadError: ErrorAnswer(500, _SERVER, "engine_dead"),
    errors.BackendError: ErrorAnswer(500, _SERVER, "backend_error"),
}
_INTERNAL = ErrorAnswer(500, _SERVER, "internal_error")
LEFT = "client_left"
"""Stands for a code where the client left before its answer was complete."""

_CLIENT_LEFT = 499
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", _CLIENT_LEFT: LEFT}
# Litestar's words for a client that left while it sent its body: nothing went wrong here.
_GONE = "client disconnected prematurely"

ERROR_CODE = "error_code"
"""The key of `scope["state"]` under which the code of the error stands that a client was told."""


# Which errors bring a header besides, and what stands in it.
_HEADERS: tuple[tuple[type[errors.ApplianceError], str, Callable[[Any], str]], ...] = (
    (errors.OverloadError, "Retry-After", lambda error: str(error.retry_after_s)),
    (errors.InvalidAPIKeyError, "WWW-Authenticate", lambda error: "Bearer"),
    # OpenAI's clients would otherwise send a request again that has just proved too long.
    (errors.DeadlineExceededError, "x-should-retry", lambda error: "false"),
)


def answer_to(error: Exception) -> ErrorAnswer:
    """The answer to `error`; one that nobody foresaw is an internal error."""
    return answer_to_kind(type(error))


def answer_to_kind(kind: type[Exception]) -> ErrorAnswer:
    """The answer to every error of the class `kind`."""
    for ancestor in kind.__mro__:
        if ancestor in ANSWERS:
            return ANSWERS[ancestor]
    return _INTERNAL


def header_names(kind: type[Exception]) -> list[str]:
    """The headers that an answer to errors of the class `kind` brings besides."""
    return [name for base, name, _ in _HEADERS if issubclass(kind, base)]


def error_body(error: Exception, request_id: str) -> ErrorBody:
    """The body for `error`, the same before a stream and inside one.

    Only errors made to be read show their text; any other is logged and told in general words.
    """
    answer = answer_to(error)
    if not isinstance(error, errors.ApplianceError):
        _log.error("internal error in request %s", request_id, exc_info=error)
        words = f"internal error; see the service's log for request {request_id}"
        return ErrorBody(ErrorDetail(words, _SERVER, None, answer.code))
    return ErrorBody(
        ErrorDetail(str(error), answer.type, getattr(error, "param", None), answer.code)
    )


def note_error(request: Request[Any, Any, Any], body: ErrorBody) -> None:
    """Leave the code in the request's scope, for whoever counts."""
    request.scope["state"][ERROR_CODE] = body.error.code


def _appliance_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    headers = {name: value(error) for kind, name, value in _HEADERS if isinstance(error, kind)}
    body = error_body(error, request.scope["state"][REQUEST_ID])
    return _response(request, answer_to(error).status, body, headers)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What the framework itself refuses: no such path, wrong method."""
    status = _CLIENT_LEFT if error.detail == _GONE else error.status_code
    if status >= 500:
        return _appliance_error(request, error)
    code = _HTTP_CODES.get(status, "invalid_request")
    words = error.detail
    if status == 404:
        words = f"nothing is at {request.url.path}; OpenAI's API begins with /v1, see /docs"
    elif status == 405:
        allowed = Headers(error.headers or {}).get("allow", "nothing")
        words = f"{request.method} is not possible at {request.url.path}, but {allowed} is"
    return _response(
        request, status, ErrorBody(ErrorDetail(words, _INVALID, None, code)), error.headers
    )


def _no_body(request: Request[Any, Any, Any], _: ValidationException) -> Response[bytes]:
    """The one thing left for the framework to find wrong with a body; `body.py` judges the rest."""
    return _appliance_error(request, errors.RequestError("the body is empty, a JSON object needed"))


def _too_large(request: Request[Any, Any, Any], _: RequestEntityTooLarge) -> Response[bytes]:
    limit = request.route_handler.resolve_request_max_body_size()
    return _appliance_error(
        request,
        errors.PayloadTooLargeError(
            f"the body is larger than {limit} bytes (server.max_body_bytes); send a shorter one"
        ),
    )


def _response(
    request: Request[Any, Any, Any],
    status: int,
    body: ErrorBody,
    headers: dict[str, str] | None = None,
) -> Response[bytes]:
    note_error(request, body)
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=MediaType.JSON,
        headers=headers or {},
    )


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    errors.ApplianceError: _appliance_error,
    ValidationException: _no_body,
    RequestEntityTooLarge: _too_large,
    HTTPException: _http_error,
    Exception: _appliance_error,
}
