"""One route as the OpenAPI document has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

import msgspec
from litestar.handlers import HTTPRouteHandler

from appliance import errors
from appliance.api.documented import DOCUMENTED, Documented
from appliance.api.exceptions import ErrorAnswer, answer_to_kind, header_names
from appliance.api.gate import LIMITED, OPEN
from appliance.api.parameters import Support
from appliance.api.schemas import ErrorBody

Schema = dict[str, Any]
References = Mapping[type[msgspec.Struct], Schema]

_JSON, _EVENTS = "application/json", "text/event-stream"
_PATH_PARAMETER = re.compile(r"\{(\w+):\w+\}")
_NAME_IN_PATH = re.compile(r"\{(\w+)\}")
_MEANING = {
    200: "The answer.",
    400: "Something is wrong with the request; `param` names it.",
    401: "No API key, or one that is not known.",
    404: "No such model.",
    413: "The body is larger than `server.max_body_bytes`.",
    429: "Too many requests; `Retry-After` says when to come again.",
    500: "The service is at fault.",
    503: "Not ready, or no more; `Retry-After` says when to come again.",
    504: "The answer took longer than `engine.request_timeout_s`.",
}
_HEADERS = {
    "X-Request-Id": ("The request's own id, or one made here.", {"type": "string"}),
    "Retry-After": ("Seconds to wait.", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": ("How to bring a key.", {"const": "Bearer"}),
    "x-should-retry": ("That OpenAI's clients need not try again.", {"const": "false"}),
}
_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": (
        "An id for logs and the answer's header: up to 128 letters, digits and `._:+/=@-`; "
        "anything else is replaced by one made here."
    ),
    "schema": {"type": "string"},
}


class Operation:
    """Made of the route's handler and its `Documented`; `model` is the name that is served."""

    def __init__(
        self, route: HTTPRouteHandler, model: str, *, needs_key: bool, is_limited: bool
    ) -> None:
        self._route = route
        self._model = model
        self._documented: Documented = route.opt[DOCUMENTED]
        self._body: type[msgspec.Struct] | None = get_type_hints(route.fn).get("data")
        (path,) = route.paths
        (method,) = route.http_methods
        self.method = method.lower()
        self.path = _PATH_PARAMETER.sub(r"{\1}", path)
        self._is_open = bool(route.opt.get(OPEN))
        self._needs_key = needs_key and not self._is_open
        self._is_limited = is_limited and path.startswith(LIMITED)

    @property
    def structs(self) -> list[type[msgspec.Struct]]:
        """Every struct that a request or an answer is made of."""
        told = self._documented
        kinds = [self._body, told.answer, *told.events, *told.others.values()]
        return [kind for kind in kinds if kind is not None]

    def describe_fields(self, schemas: dict[str, Schema], references: References) -> None:
        """Tell in the body's schema what is known of each parameter."""
        if self._body is None:
            return
        fields = schemas[references[self._body]["$ref"].rpartition("/")[2]]["properties"]
        is_optional = "default" in fields["model"]
        fields["model"]["enum"] = [self._model, *([None] if is_optional else [])]
        for parameter in self._documented.parameters:
            schema = fields.setdefault(parameter.name, {})
            if parameter.support is Support.SUPPORTED:
                schema["description"] = parameter.note
            else:
                schema["description"] = f"{parameter.support.value}: {parameter.note}"
            if parameter.support is Support.REFUSED:
                schema["enum"] = [None, *parameter.harmless]

    def document(self, references: References) -> Schema:
        """The operation object; `references` lead to the schemas of `structs` and `ErrorBody`."""
        operation: Schema = {
            "operationId": self._route.fn.__name__,
            "summary": " ".join((self._route.fn.__doc__ or "").split()),
            "tags": list(self._route.tags or ()),
            "parameters": [*self._path_parameters(), _REQUEST_ID],
            "responses": dict(self._responses(references)),
        }
        if self._body is not None:
            examples = {
                name: {"value": {"model": self._model, **body}}
                for name, body in self._documented.examples.items()
            }
            content = {"schema": references[self._body], "examples": examples}
            operation["requestBody"] = {"required": True, "content": {_JSON: content}}
        if self._is_open:
            operation["security"] = []
        return operation

    def _path_parameters(self) -> Iterator[Schema]:
        for name in _NAME_IN_PATH.findall(self.path):
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "example": self._model,
            }

    def _responses(self, references: References) -> Iterator[tuple[str, Schema]]:
        bodies = {200: self._answer(references)}
        bodies |= {
            status: _json(references[kind]) for status, kind in self._documented.others.items()
        }
        headers = {status: {"X-Request-Id"} for status in bodies}
        if 503 in headers:
            headers[503].add("Retry-After")
        answers: dict[int, list[ErrorAnswer]] = {}
        for error in self._errors():
            answer = answer_to_kind(error)
            answers.setdefault(answer.status, []).append(answer)
            headers.setdefault(answer.status, {"X-Request-Id"}).update(header_names(error))
        bodies |= {s: _json(_error(references, found)) for s, found in answers.items()}
        for status, content in sorted(bodies.items()):
            yield (
                str(status),
                {
                    "description": _MEANING[status],
                    "headers": {name: _header(name) for name in sorted(headers[status])},
                    "content": content,
                },
            )

    def _errors(self) -> Iterator[type[Exception]]:
        yield from self._documented.errors
        if self._body is not None:
            yield from (errors.RequestError, errors.PayloadTooLargeError)
        if self._needs_key:
            yield errors.InvalidAPIKeyError
        if self._is_limited:
            yield errors.RateLimitError
        yield Exception

    def _answer(self, references: References) -> Schema:
        told = self._documented
        if told.answer is None:
            return {kind: {"schema": {"type": "string"}} for kind in told.text_types}
        content = _json(references[told.answer])
        if told.events:
            content[_EVENTS] = {"schema": _event(told.events, references)}
        return content


def _json(schema: Schema) -> Schema:
    return {_JSON: {"schema": schema}}


def _header(name: str) -> Schema:
    description, schema = _HEADERS[name]
    return {"description": description, "required": True, "schema": schema}


def _error(references: References, answers: list[ErrorAnswer]) -> Schema:
    """The body of one status, with the types and codes that it may have."""
    detail = {
        "type": {"enum": sorted({answer.type for answer in answers})},
        "code": {"enum": sorted({answer.code for answer in answers})},
    }
    return {
        "allOf": [references[ErrorBody], {"properties": {"error": {"properties": detail}}}],
    }


def _event(kinds: Sequence[type[msgspec.Struct]], references: References) -> Schema:
    """What each event of a stream holds: OpenAPI 3.1 has no other place for it."""
    names = [tag for kind in kinds if (tag := kind.__struct_config__.tag)]
    error: tuple[type[msgspec.Struct], ...] = () if names else (ErrorBody,)
    schema = {"anyOf": [references[kind] for kind in (*kinds, *error)]}
    data = {"type": "string", "contentMediaType": _JSON, "contentSchema": schema}
    if names:
        return {
            "description": "Each event of the stream, under the name that is the `type` in it.",
            "type": "object",
            "properties": {"event": {"enum": names}, "data": data},
            "required": ["event", "data"],
        }
    return {
        "description": "Each event of the stream: a chunk, or an error behind the first text, and "
        "`[DONE]` at the end.",
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
        "required": ["data"],
    }
