"""`POST /v1/responses`: OpenAI's newer endpoint; nothing is kept here from one to the next."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Response, Stream

from appliance.api.answers import answers_to, begun, collected
from appliance.api.disconnect import unless_gone
from appliance.api.documented import DOCUMENTED, GENERATES, Documented
from appliance.api.parameters import RESPONSE_PARAMETERS, check_refused
from appliance.api.request_meter import OPERATION
from appliance.api.response_events import EVENTS, Event
from appliance.api.response_input import messages_of
from appliance.api.response_object import ResponseObject, asked
from appliance.api.response_request import ResponseRequest
from appliance.api.response_writer import ResponseWriter
from appliance.api.sse import event_stream, named_events
from appliance.chat.completion import Delta
from appliance.errors import RequestError
from appliance.service import Service

_QUESTION = {"input": "Why is the sky blue?"}
_DOCUMENTED = Documented(
    ResponseObject,
    events=EVENTS,
    errors=GENERATES,
    parameters=RESPONSE_PARAMETERS,
    examples={"whole": _QUESTION, "streamed": {**_QUESTION, "stream": True}},
)


@post(
    "/v1/responses",
    status_code=200,
    tags=["generation"],
    opt={OPERATION: "chat", DOCUMENTED: _DOCUMENTED},
)
async def create_response(
    request: Request[Any, Any, Any],
    data: JSONBody[ResponseRequest],
    service: NamedDependency[Service],
) -> Response[ResponseObject] | Stream:
    """Answer a text or a conversation, whole or as a stream of events."""
    completer = service.completer_for(data.model)
    check_refused(RESPONSE_PARAMETERS, msgspec.structs.asdict(data))
    options = data.options()
    shared = {
        "id": f"resp_{uuid.uuid4().hex}",
        "created_at": int(time.time()),
        "model": service.model_name,
        **asked(data),
    }
    try:
        (completion,) = await answers_to(
            messages_of(data.input, data.instructions, service.max_messages),
            options,
            data.tool_use(),
            data.output_format(),
            completer=completer,
            receive=request.receive,
        )
    except RequestError as error:
        # What the model is given comes as `input` here, whoever finds that it is too long.
        error.param = "input" if error.param == "messages" else error.param
        raise
    writer = ResponseWriter(shared, completion, with_timings=bool(data.timings))
    try:
        if data.stream:
            deltas = await unless_gone(request.receive, begun(completion.deltas()))
            stream = _events(writer, deltas)
            return event_stream(request, stream, [completion], named_events(writer.failed))
        answer = await unless_gone(request.receive, collected(completion))
    except BaseException:
        completion.abort()
        raise
    for _ in writer.feed(answer):
        pass
    return Response(writer.response())


async def _events(writer: ResponseWriter, deltas: AsyncIterator[Delta]) -> AsyncIterator[Event]:
    for event in writer.begin():
        yield event
    async for delta in deltas:
        for event in writer.feed(delta):
            yield event
    yield writer.end()
