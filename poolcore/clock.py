"""Time as an argument: what shells take instead of reaching for the machine's clock.

Pure code takes times and durations as values; what has to wait or to stamp takes a `Clock`, so that
a simulation can let an hour pass in a millisecond and always in the same order.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells and waits for time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back, comparable in this process only."""
        ...

    def now(self) -> datetime:
        """The time of day, aware, UTC. May jump: for people to read, never to decide by."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed; zero or less lets other tasks run once."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds, not counting the time the machine was suspended."""
        return time.monotonic()

    def now(self) -> datetime:
        """The machine's time of day."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(seconds, 0.0))
