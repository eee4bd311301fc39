"""The C heap's two habits that cost a long-running service memory, where it is glibc's.

Freed blocks above a threshold go back to the system, and that threshold rises to 32 MB with the
first large block that is freed. From then on the buffers of a growing KV cache, each a little
larger than the last, are cut out of a heap that only ever grows: eight rows of 1,000 tokens cost a
0.5B model 210 MB more. And what a JSON parser leaves behind (40 MB after the tokenizer was read)
stays until somebody asks for it.
"""

from __future__ import annotations

import ctypes
from typing import Any

# mallopt(3): setting the threshold also stops it from rising. 128 KiB is what it starts at.
_M_MMAP_THRESHOLD = -3
_THRESHOLD_BYTES = 128 * 1024


def bound_heap() -> None:
    """Give large blocks back to the system as soon as they are freed, in this process."""
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)


def trim_heap() -> None:
    """Give back all that is free now; takes milliseconds."""
    if trim := _function("malloc_trim"):
        trim(0)


def _function(name: str) -> Any:
    """None where the C library has no such function, as musl."""
    return getattr(ctypes.CDLL(None), name, None)
