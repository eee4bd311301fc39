"""The way into the engine thread: commands that run there, in the order they were sent."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable

Command = Callable[[], None]

_IDLE_AFTER_S = 0.25


class Inbox:
    """`put` is for any thread, `turn` for the event loop's, `run` for the engine thread alone."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def put(self, command: Command) -> None:
        """Have `command` run on the engine thread, behind all that were put before."""
        self._commands.put(command)

    async def turn(self) -> None:
        """Return when the engine thread has run all that was put before; for the event loop."""
        loop, turned = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(turned.set)

        self.put(tell)
        await turned.wait()

    def run(self, *, wait: bool, idle: Command) -> None:
        """Run all commands that are there; with `wait`, at least one.

        `idle` is called once when none came for a while. Not at once: a client's next request often
        follows an answer within milliseconds.
        """
        if wait:
            self._next(idle)()
        while not self._commands.empty():
            self._commands.get()()

    def _next(self, idle: Command) -> Command:
        try:
            return self._commands.get(timeout=_IDLE_AFTER_S)
        except queue.Empty:
            idle()
            return self._commands.get()
