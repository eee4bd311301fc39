"""When a sequence did what; the recorder's notes on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Times on the monotonic clock, in seconds; None: not yet.

    `started_at` is the begin of the first step that computed something for it. `num_tokens` of the
    answer are recorded, the last of them at `last_token_at`; `num_accepted` of them were drafts.
    """

    submitted_at: float
    started_at: float | None = None
    last_token_at: float | None = None
    num_tokens: int = 0
    num_accepted: int = 0
