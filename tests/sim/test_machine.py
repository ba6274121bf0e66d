"""A place that is frozen: nothing happens there, and then everything that was to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sim.machine import MachineLoop, place, simulate
from support.virtual_clock import VirtualClock

HERE = "here"


def begun(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work, context=place(HERE))


def machine() -> MachineLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MachineLoop)
    return loop


def test_what_happens_meanwhile_happens_in_its_order_when_it_thaws() -> None:
    seen: list[tuple[str, float]] = []

    async def main(clock: VirtualClock) -> None:
        async def sleeper(name: str, seconds: float) -> None:
            # One as the product's shells wait, and one as asyncio itself does.
            await (clock.sleep(seconds) if name == "a" else asyncio.sleep(seconds))
            seen.append((name, clock.monotonic()))

        tasks = [begun(sleeper("c", 3.0)), begun(sleeper("a", 1.0)), begun(sleeper("b", 2.0))]
        await clock.sleep(0.5)
        machine().freeze(HERE)
        await clock.sleep(2.0)
        assert seen == []
        machine().thaw(HERE)
        await asyncio.gather(*tasks)

    simulate("order", main)
    assert seen == [("a", 2.5), ("b", 2.5), ("c", 3.0)]


def test_elsewhere_everything_goes_on() -> None:
    async def main(clock: VirtualClock) -> None:
        waiting = begun(clock.sleep(1.0))
        await clock.sleep(0.5)
        machine().freeze(HERE)
        machine().freeze(HERE)
        await clock.sleep(10.0)
        async with asyncio.timeout(1.0):
            await asyncio.sleep(0.5)
        assert not waiting.done()
        machine().thaw(HERE)
        await waiting
        assert clock.monotonic() == 11.0

    simulate("elsewhere", main)


def test_a_timer_that_is_cancelled_before_the_thaw_is_over_does_not_go_off() -> None:
    async def main(clock: VirtualClock) -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def patient() -> str:
            async with asyncio.timeout(2.0):
                return await answer

        waiting = begun(patient())
        await clock.sleep(0.5)
        machine().freeze(HERE)
        await clock.sleep(1.0)
        # It comes before the deadline, and is looked at long after it.
        answer.set_result("in time")
        await clock.sleep(5.0)
        machine().thaw(HERE)
        assert await waiting == "in time"

    simulate("in time", main)
