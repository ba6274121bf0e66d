"""Virtual time, and the system's own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from poolcore.clock import Clock, SystemClock
from support.virtual_clock import Deadlock, VirtualClock, run_in_virtual_time


async def test_sleepers_wake_at_their_moments_in_order() -> None:
    clock = VirtualClock()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("c", 3), ("a", 1), ("b", 1), ("d", 2)):
            group.create_task(sleep(name, seconds))
        await clock.advance(0.9)
        assert woken == []
        await clock.advance(5.1)

    assert woken == [
        ("a", 1),
        ("b", 1),
        ("d", 2),
        ("a", 2),
        ("b", 2),
        ("c", 3),
        ("d", 4),
        ("c", 6),
    ]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = VirtualClock()
    async with asyncio.TaskGroup() as group:
        sleeper = group.create_task(clock.sleep(1))
        await clock.advance(0.5)
        sleeper.cancel()
    assert clock.next_due() is None


def test_a_loop_in_virtual_time_jumps_to_the_next_timer_of_either_kind() -> None:
    async def main(clock: VirtualClock) -> list[float]:
        moments = []

        async def note(sleep: float) -> None:
            await clock.sleep(sleep)
            moments.append(clock.monotonic())

        async with asyncio.TaskGroup() as group:
            group.create_task(note(7200))
            group.create_task(note(0))
            await asyncio.sleep(60)
            moments.append(asyncio.get_running_loop().time())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await clock.sleep(3600)
            moments.append(clock.monotonic())
        return moments

    assert run_in_virtual_time(main) == [0, 60, 90, 7200]


def test_a_loop_that_nothing_can_wake_says_so() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_in_virtual_time(main)


async def test_the_system_clock_is_a_clock() -> None:
    clock: Clock = SystemClock()
    started = clock.monotonic()
    await clock.sleep(0.01)
    await clock.sleep(-1)
    assert clock.monotonic() - started >= 0.009
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(minutes=1)
    virtual: Clock = VirtualClock()
    assert virtual.now().tzinfo is not None


def test_even_the_shortest_sleep_ends() -> None:
    async def main(clock: VirtualClock) -> None:
        await clock.sleep(1e9)
        began = clock.monotonic()
        await clock.sleep(1e-12)
        assert clock.monotonic() > began

    run_in_virtual_time(main)
