"""Parts that end together: failures, and cancellations that come at the worst moment."""

import asyncio

import pytest

from poolcore.side_by_side import accompanied, side_by_side


class Part:
    """Waits until it is ended, and then until its cleanup is allowed to end."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.may_end = asyncio.Event()
        self.ended = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ends.set()
            await self.may_end.wait()
            self.ended = True


async def fails(message: str) -> None:
    raise ValueError(message)


async def returns() -> None:
    pass


async def test_it_ends_when_all_have_returned() -> None:
    await side_by_side(returns(), returns())


async def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    part = Part()
    part.may_end.set()
    with pytest.raises(ValueError, match="the disk"):
        await side_by_side(returns(), part.run(), fails("the disk"), fails("its consequence"))
    assert part.ended


async def test_a_cause_that_is_slower_than_its_consequence_is_raised_all_the_same() -> None:
    async def cause() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("the disk")

    with pytest.raises(ValueError, match="the disk"):
        await side_by_side(cause(), fails("its consequence"))


async def test_a_cancellation_is_not_lost_while_a_failure_ends_the_parts() -> None:
    part = Part()
    async with asyncio.TaskGroup() as tasks:
        whole = tasks.create_task(side_by_side(part.run(), fails("the disk")))
        await part.ends.wait()
        whole.cancel()
        await asyncio.sleep(0)
        assert not whole.done(), "a part is still ending"
        part.may_end.set()
    assert whole.cancelled()
    assert part.ended


async def test_it_waits_for_its_parts_however_often_it_is_cancelled() -> None:
    part = Part()
    async with asyncio.TaskGroup() as tasks:
        whole = tasks.create_task(side_by_side(part.run(), returns()))
        await asyncio.sleep(0)
        for _ in range(3):
            whole.cancel()
            await asyncio.sleep(0)
        assert not whole.done()
        part.may_end.set()
    assert whole.cancelled()
    assert part.ended


async def test_what_runs_beside_ends_with_what_it_accompanies() -> None:
    part = Part()
    part.may_end.set()

    async def main() -> str:
        await asyncio.sleep(0)
        return "its result"

    assert await accompanied(main(), part.run()) == "its result"
    assert part.ended


async def test_a_failure_beside_ends_what_is_accompanied() -> None:
    part = Part()
    part.may_end.set()
    with pytest.raises(ValueError, match="beside"):
        await accompanied(part.run(), fails("beside"))
    assert part.ended
