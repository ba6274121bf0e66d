"""A clock that moves only when it is told to, and an event loop that tells it when all is quiet.

Two ways to use it:

* `VirtualClock` with any event loop: the test calls `advance`.
* `run_in_virtual_time(main)`: runs `main(clock)` on a loop whose own time (`asyncio.sleep`,
  `asyncio.timeout`) is the clock's too. Whenever no task can go on, time jumps to the next timer,
  so the order of events is the same in every run and an hour takes as long as its events. If there
  is no next timer either, nothing could ever happen again: `Deadlock`.

Threads, subprocesses and sockets know nothing of virtual time; keep them out of such a loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

START = datetime(2030, 1, 1, tzinfo=UTC)

_SETTLING_ROUNDS = 50
"""Rounds of the loop given to the tasks that woke, before time goes on, on an ordinary loop."""


class Deadlock(AssertionError):
    """Every task waits, and nothing is due at any time."""


class VirtualClock:
    """A `poolcore.clock.Clock` whose time is a number."""

    def __init__(self, start_seconds: float = 0.0) -> None:
        self._now = start_seconds
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def now(self) -> datetime:
        return START + timedelta(seconds=self._now)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        # Time goes on even where the sum rounds to what it was: who sleeps for the rest of a time
        # must not do so for ever.
        due = max(self._now + seconds, math.nextafter(self._now, math.inf))
        # Those who sleep until the same moment wake in the order in which they lay down.
        heapq.heappush(self._sleepers, (due, next(self._arrivals), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking sleepers at their moments; who woke runs until it waits."""
        end = self._now + seconds
        await _settle()
        while (due := self.next_due()) is not None and due <= end:
            self.move_to(due)
            await _settle()
        self.move_to(end)
        await _settle()

    def next_due(self) -> float | None:
        """When the next sleeper wakes, or none."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def move_to(self, moment: float) -> None:
        """Set the time and wake whoever is due, without running anybody."""
        self._now = max(self._now, moment)
        while (due := self.next_due()) is not None and due <= self._now:
            heapq.heappop(self._sleepers)[2].set_result(None)


async def _settle() -> None:
    for _ in range(_SETTLING_ROUNDS):
        await asyncio.sleep(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that lives in a `VirtualClock`'s time."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        super().__init__(_IdleSelector(clock))

    def time(self) -> float:
        return self._clock.monotonic()


class _IdleSelector(selectors.SelectSelector):
    # A loop asks its selector to wait exactly when none of its tasks can go on. It is not asked
    # what it really has: that would cost a system call each time, and there is nothing.
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            return []
        now = self._clock.monotonic()
        due = self._clock.next_due()
        moments = [] if due is None else [due]
        if timeout is not None:
            moments.append(now + timeout)
        if not moments:
            raise Deadlock("every task waits, and no timer is set")
        self._clock.move_to(min(moments))
        return []


def run_in_virtual_time(main: Callable[[VirtualClock], Coroutine[object, object, T]]) -> T:
    """Run `main` to its end with a clock that starts at zero."""
    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock)) as runner:
        return runner.run(main(clock))
