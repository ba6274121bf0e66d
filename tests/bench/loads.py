"""Putting a load on something that answers, and what it made of it.

A *closed* load is a number of writers, each of which asks again as soon as it has its answer: it
finds out how much can be done. An *open* one asks at fixed times whether or not there were answers,
and counts from those times: it finds out how long an answer takes at a given rate, and cannot be
slowed down by what it measures.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from bench.figures import Spread

T = TypeVar("T")

Ask = Callable[[int], Awaitable[object]]
"""Asks once, as the writer of that number."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed load found."""

    rate: float
    """Answers per second."""
    latency: Spread

    @classmethod
    def median(cls, rounds: Sequence[Load]) -> Load:
        """The medians over several rounds, each figure's own."""
        rate = statistics.median(r.rate for r in rounds)
        return cls(rate, Spread.median([r.latency for r in rounds]))


async def closed(writers: int, seconds: float, ask: Ask) -> Load:
    """The load of so many writers for so long."""
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def write(writer: int) -> None:
        while (asked := time.perf_counter()) < end:
            await ask(writer)
            latencies.append(time.perf_counter() - asked)

    async with asyncio.TaskGroup() as tasks:
        for writer in range(writers):
            tasks.create_task(write(writer))
    return Load(len(latencies) / (time.perf_counter() - began), Spread.of(latencies))


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """One question of an open load; times are of the machine's monotonic clock."""

    due: float
    answered: float
    answer: T


async def opened(rate: float, seconds: float, ask: Callable[[], Awaitable[T]]) -> list[Asked[T]]:
    """Ask `rate` times a second for so long."""
    asked: list[Asked[T]] = []

    async def one(due: float) -> None:
        answer = await ask()
        asked.append(Asked(due, time.monotonic(), answer))

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in count():
            due = began + number / rate
            if due >= began + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(one(due))
    return asked
