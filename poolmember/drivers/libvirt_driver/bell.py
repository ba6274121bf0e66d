"""A bell that any thread may ring and coroutines wait for; rings while nobody waits are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")


def post(loop: asyncio.AbstractEventLoop, function: Callable[[*Ts], object], *args: *Ts) -> None:
    """Have the event loop call `function` soon; from any thread, harmless when it has ended."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # The loop is closed: nobody is left whom it could concern.
        return


class Bell:
    """Counts its rings. Belongs to the event loop in which it was made."""

    def __init__(self) -> None:
        self.rings = 0
        self.loop = asyncio.get_running_loop()
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Ring; from the event loop's thread."""
        self.rings += 1
        self._next.set()
        self._next = asyncio.Event()

    def ring_from_thread(self) -> None:
        """Ring; from any thread, also when the loop has ended."""
        post(self.loop, self.ring)

    async def wait_beyond(self, rings: int, *, timeout_seconds: float) -> bool:
        """Wait until it has rung more than `rings` times; `False` when time ran out before."""
        if self.rings > rings:
            return True
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._next.wait()
        except TimeoutError:
            return False
        return True
