"""Types of request fields whose ranges the OpenAPI document tells.

Where msgspec checks a range, it is a constraint of msgspec's. Where the code that uses a value
checks it, in words that are better to read, the document alone is told here; a test holds both
together.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from appliance.chat.options import MAX_LOGPROBS, MAX_STOP_STRINGS


def _told(**keywords: Any) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema=keywords)


TokenId = Annotated[int, msgspec.Meta(ge=0)]
NumLogprobs = Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)]
Positive = Annotated[int, _told(minimum=1)]
Temperature = Annotated[float, _told(minimum=0, maximum=2)]
Share = Annotated[float, _told(minimum=0, maximum=1)]
Penalty = Annotated[float, _told(minimum=-2, maximum=2)]
RepetitionPenalty = Annotated[float, _told(minimum=0.01, maximum=10)]
Bias = Annotated[float, _told(minimum=-100, maximum=100)]
LogitBias = Annotated[dict[str, Bias], _told(propertyNames={"pattern": "^[0-9]+$"})]
Seed = Annotated[int, _told(minimum=-(2**63), maximum=2**64 - 1)]
StopString = Annotated[str, _told(minLength=1)]
StopStrings = Annotated[list[StopString], _told(maxItems=MAX_STOP_STRINGS)]
