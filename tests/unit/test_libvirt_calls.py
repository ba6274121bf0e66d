"""Blocking calls with deadlines, and the bell that threads ring."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from poolmember.drivers.contract import DriverError
from poolmember.drivers.libvirt_driver.bell import Bell
from poolmember.drivers.libvirt_driver.blocking_calls import BlockingCalls


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Calls wait for it: a daemon that hangs, and goes on at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_returns_what_its_function_does() -> None:
    calls = BlockingCalls(threads=1, timeout_seconds=5)
    assert await calls.run("four", lambda: 2 + 2) == 4
    with pytest.raises(ZeroDivisionError):
        await calls.run("nonsense", lambda: 1 // 0)
    calls.close()


async def test_a_call_that_hangs_ends_in_time_with_its_name_while_the_loop_goes_on(
    hanging: threading.Event,
) -> None:
    calls = BlockingCalls(threads=1, timeout_seconds=0.1)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async with asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(tick())
        with pytest.raises(DriverError, match=r"the domains: no answer within 0\.1 s"):
            await calls.run("the domains", hanging.wait)
        ticking.cancel()
    assert ticks >= 3
    calls.close()


async def test_behind_a_call_that_hangs_others_fail_in_time_and_are_never_made(
    hanging: threading.Event,
) -> None:
    calls = BlockingCalls(threads=1, timeout_seconds=0.05)
    made: list[str] = []
    with pytest.raises(DriverError):
        await calls.run("first", hanging.wait)
    with pytest.raises(DriverError, match=r"second: .*“first” has not been answered for"):
        await calls.run("second", lambda: made.append("second"))
    hanging.set()
    await calls.run("third", lambda: made.append("third"), timeout_seconds=5)
    assert made == ["third"]
    calls.close()


async def test_a_second_thread_is_not_held_up(hanging: threading.Event) -> None:
    calls = BlockingCalls(threads=2, timeout_seconds=5)
    first = calls.begin("first", hanging.wait)
    assert await calls.run("second", lambda: "done") == "done"
    assert not first.done()
    calls.close()


async def test_no_more_threads_than_allowed() -> None:
    calls = BlockingCalls(threads=3, timeout_seconds=5)
    at_once, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(calls.run("work", work))
    assert most == 3
    calls.close()


async def test_a_functions_own_timeout_is_not_mistaken_for_the_deadline() -> None:
    calls = BlockingCalls(threads=1, timeout_seconds=5)

    def fail() -> None:
        raise TimeoutError("the function's own")

    with pytest.raises(TimeoutError, match="the function's own"):
        await calls.run("call", fail)
    calls.close()


async def test_the_last_call_comes_after_those_before_and_nothing_after_it(
    hanging: threading.Event,
) -> None:
    calls = BlockingCalls(threads=1, timeout_seconds=5)
    made: list[str] = []

    def first() -> None:
        hanging.wait()
        made.append("first")

    calls.begin("first", first)
    ended = asyncio.wrap_future(calls.close(last=lambda: made.append("last")))
    with pytest.raises(DriverError, match="late: closed"):
        await calls.run("late", lambda: made.append("late"))
    hanging.set()
    await asyncio.wait_for(ended, 5)
    assert made == ["first", "last"]


def test_the_process_ends_although_a_call_hangs() -> None:
    script = """
import asyncio, threading
from poolmember.drivers.contract import DriverError
from poolmember.drivers.libvirt_driver.blocking_calls import BlockingCalls

async def main():
    calls = BlockingCalls(threads=1, timeout_seconds=0.05)
    try:
        await calls.run("the domains", threading.Event().wait)
    except DriverError as error:
        print(error)
    calls.close()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "the domains: no answer within 0.05 s\n"
    assert done.stderr == ""


# -- the bell --------------------------------------------------------------------------------------


async def test_a_ring_before_the_wait_is_heard() -> None:
    bell = Bell()
    heard = bell.rings
    bell.ring()
    assert await bell.wait_beyond(heard, timeout_seconds=0)
    assert not await bell.wait_beyond(bell.rings, timeout_seconds=0.01)


async def test_everybody_who_waits_hears_it() -> None:
    bell = Bell()
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(bell.wait_beyond(bell.rings, timeout_seconds=5)) for _ in range(3)
        ]
        await asyncio.sleep(0)
        ringing = threading.Thread(target=bell.ring_from_thread)
        ringing.start()
    ringing.join()
    assert all(task.result() for task in waiting)


def test_ringing_after_the_loop_has_ended_is_harmless() -> None:
    async def make() -> Bell:
        return Bell()

    asyncio.run(make()).ring_from_thread()
