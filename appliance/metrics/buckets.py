"""Bounds of histogram buckets, in seconds and tokens.

What somebody wants to be warned about should be a bound itself: 100 ms to the first token, 30 ms
for each further one, 2 s.
"""

from __future__ import annotations

TOKEN_S = (
    *(0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
"""Between two tokens, and for one engine step."""

FIRST_TOKEN_S = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)
"""Until the first token, and its parts."""

REQUEST_S = (
    *(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0),
    *(20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0),
)
"""A whole request; it may take `engine.request_timeout_s`."""

TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Tokens of one prompt or one answer."""
