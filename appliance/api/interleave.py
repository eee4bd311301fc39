"""Several answers of one request, read side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from appliance.chat.completion import Completion, Delta


async def interleaved(completions: Sequence[Completion]) -> AsyncIterator[tuple[int, Delta]]:
    """The deltas of all, in the order in which they come, each with its completion's index.

    Raises the first error of any, which ends them all.
    """
    if len(completions) == 1:
        async for delta in completions[0].deltas():
            yield 0, delta
        return
    arrived: asyncio.Queue[tuple[int, Delta] | asyncio.Future[None]] = asyncio.Queue()

    async def read(index: int) -> None:
        async for delta in completions[index].deltas():
            arrived.put_nowait((index, delta))

    readers = [asyncio.ensure_future(read(index)) for index in range(len(completions))]
    for reader in readers:
        # Behind its last delta a reader hands in itself.
        reader.add_done_callback(arrived.put_nowait)
    try:
        num_reading = len(readers)
        while num_reading:
            item = await arrived.get()
            if isinstance(item, tuple):
                yield item
            else:
                item.result()
                num_reading -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
