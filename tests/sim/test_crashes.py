"""Power cuts of master, joining or leaving host, and client, at every step of the step tables.

Each is cut before the step is committed, when it is committed and the master has not been told,
and after it. Afterwards every host is wholly in or wholly out, nothing is left half-made (the rules
of `sim.rules`), and the same command again succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Task, TaskStatus
from poolmaster.operations.eject import Eject
from poolmaster.operations.join import Join
from poolmaster.operations.steps import Step
from sim.host import SimHost
from sim.world import Crash, World, play

MOMENTS = ("before", "unanswered", "after")
VICTIMS = (("phantom",), ("ignite",), ("phantom", "ignite"))
JOIN_AT_HOST = ("host.join:host-reserved", "host.join:host-committed", "host.join:host-member")
EJECT_AT_HOST = ("host.eject:host-told", "host.eject:host-founded")
NOT_NOW = {
    Reason.HOST_UNREACHABLE,
    Reason.HOST_RESERVED,
    Reason.JOIN_IN_PROGRESS,
    Reason.JOIN_REFUSED,
    Reason.DEADLINE_PASSED,
    Reason.NO_MASTER,
    Reason.OUTCOME_UNKNOWN,
    Reason.HOST_OFFLINE,
}


def crashes(name: str, steps: tuple[Step, ...], at_host: tuple[str, ...]) -> list[Crash]:
    """Every crash of an operation."""
    recorded = [f"{name}:{step}" for step in (*(step.name for step in steps), "done")]
    at_master = [(point, moment) for point in recorded for moment in MOMENTS]
    all_moments = [*at_master, *((point, "after") for point in at_host)]
    return [Crash(*moment, victims) for victims in VICTIMS for moment in all_moments]


def named(crash: Crash) -> str:
    return f"{'+'.join(crash.victims)}-{crash.moment}-{crash.point}"


async def with_two_hosts(world: World) -> tuple[SimHost, SimHost]:
    """A pool of phantom and specter, and ignite beside it."""
    phantom, specter, ignite = world.add("phantom", "specter", "ignite")
    await world.settle()
    await world.join(phantom, specter)
    await world.settle()
    return phantom, ignite


async def restarted(world: World, crash: Crash) -> None:
    """Wait for the crash, and for the power to come back."""
    await world.until(lambda: crash.happened)
    await world.let_pass(1.0)
    for name in crash.victims:
        world.hosts[name].power_on()
    await world.settle()


@pytest.mark.parametrize("crash", crashes(Join.name, Join.steps, JOIN_AT_HOST), ids=named)
def test_a_power_cut_during_a_join(crash: Crash) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await with_two_hosts(world)
        asked = world.new_request(phantom)
        world.crash = crash
        crash.happened = False
        client = asyncio.ensure_future(world.add_host(phantom, ignite, asked=asked))  # noqa: TID251
        await restarted(world, crash)
        await asyncio.gather(client, return_exceptions=True)

        # Asked again, the request that was recorded is found; it may have failed.
        again = await found(world.add_host(phantom, ignite, asked=asked))
        if again is None or (await world.finished(phantom, again)).status is TaskStatus.FAILURE:
            await world.join(phantom, ignite)
        await world.settle()
        assert ignite.uuid in world.members(phantom)

    play(named(crash), scenario)


@pytest.mark.parametrize("crash", crashes(Eject.name, Eject.steps, EJECT_AT_HOST), ids=named)
def test_a_power_cut_during_an_eject(crash: Crash) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await with_two_hosts(world)
        await world.join(phantom, ignite)
        await world.settle()
        asked = world.new_request(phantom)
        world.crash = crash
        crash.happened = False
        client = asyncio.ensure_future(world.eject(phantom, ignite, asked=asked))  # noqa: TID251
        await restarted(world, crash)
        await asyncio.gather(client, return_exceptions=True)

        again = await found(world.eject(phantom, ignite, asked=asked))
        if again is None or (await world.finished(phantom, again)).status is TaskStatus.FAILURE:
            await world.leave(phantom, ignite)
        await world.settle()
        assert ignite.uuid not in world.members(phantom)
        assert world.members(ignite) == {ignite.uuid}

    play(named(crash), scenario)


async def found(asking: Awaitable[Task]) -> Task | None:
    """The task that a repeated request finds; none when it is refused for a reason that passes."""
    try:
        return await asking
    except PoolError as refusal:
        if refusal.reason not in NOT_NOW:
            raise
        return None


@pytest.mark.parametrize(
    "point",
    [*(f"{Join.name}:{step.name}" for step in Join.steps), *JOIN_AT_HOST],
)
def test_a_client_that_goes_away_during_a_join_changes_nothing(point: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await with_two_hosts(world)
        asked = world.new_request(phantom)
        client = asyncio.ensure_future(world.add_host(phantom, ignite, asked=asked))  # noqa: TID251

        def go_away(_: SimHost, reached: str) -> None:
            if reached == point:
                client.cancel()

        world.on_point = go_away
        await asyncio.gather(client, return_exceptions=True)
        await world.settle()
        assert ignite.uuid in world.members(phantom)
        again = await world.add_host(phantom, ignite, asked=asked)
        assert again.status is TaskStatus.SUCCESS

    play(point, scenario)
