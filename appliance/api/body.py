"""The request's body: JSON, decoded straight into the struct that its route declares.

The framework would decode it to dictionaries and then convert those leniently, so that
`"temperature": "0.5"` passed. Here a wrong type is an error that names the parameter.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from litestar import Request

from appliance.errors import RequestError

T = TypeVar("T")

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_TOP_LEVEL = re.compile(r"\w+")


class JSONRequest(Request[Any, Any, Any]):
    """A request whose `data` is decoded as the route's handler annotates it."""

    async def json(self) -> Any:
        field = self.route_handler.parsed_data_field
        return decode(await self.body(), field.annotation if field else Any)


def decode(body: bytes, kind: type[T]) -> T:
    """`body` as `kind`. Raises `RequestError` that names the parameter at fault, if it is one."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not valid JSON: it is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise RequestError("the body is not valid JSON: it is nested too deep") from None


def _invalid(text: str) -> RequestError:
    """From msgspec's words, such as "Expected `str`, got `int` - at `$.messages[0].content`"."""
    at = _AT.search(text)
    path, reason = (at["path"], text[: at.start()]) if at else ("", text)
    if missing := _MISSING.fullmatch(reason):
        path = f"{path}.{missing['name']}" if path else missing["name"]
        reason = "needed, but missing"
    param = _TOP_LEVEL.match(path)
    return RequestError(f"{path or 'the body'}: {reason}", param[0] if param else None)
