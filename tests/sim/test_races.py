"""Operations that meet: two pools and one host, joins at once, a host replaced or reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import HostId, Reservation, Task, TaskId, TaskStatus
from poolmaster.operations.eject import Eject
from poolmaster.operations.join import ATTACH_SECONDS, Join
from poolmember.drivers.sim_host import SimVm
from sim.host import SimHost
from sim.world import World, play

JOIN_POINTS = [f"{Join.name}:{step.name}" for step in Join.steps]
EJECT_POINTS = [f"{Eject.name}:{step.name}" for step in Eject.steps]


def played(seed: object, scenario: Callable[[World], Coroutine[None, None, None]]) -> World:
    return play(seed, scenario)


async def succeeds(world: World, pool: SimHost, host: SimHost) -> bool:
    """Whether the master takes the host in, at the first try."""
    try:
        task = await world.add_host(pool, host)
    except PoolError:
        return False
    return (await world.finished(pool, task)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("seed", range(12))
def test_of_two_pools_that_take_the_same_host_exactly_one_gets_it(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, specter, ignite = world.add("phantom", "specter", "ignite")
        await world.settle()
        # From well apart to almost the same moment.
        world.network.slow_seconds = [0.05, 0.005, 0.0005][seed % 3]
        gotten = await asyncio.gather(
            succeeds(world, phantom, ignite), succeeds(world, specter, ignite)
        )
        await world.settle()
        assert gotten.count(True) == 1
        winner = (phantom, specter)[gotten.index(True)]
        assert ignite.uuid in world.members(winner)

    played(f"two pools {seed}", scenario)


@pytest.mark.parametrize("seed", range(4))
def test_two_hosts_join_at_once(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, specter, ignite = world.add("phantom", "specter", "ignite")
        await world.settle()
        assert all(
            await asyncio.gather(
                succeeds(world, phantom, specter), succeeds(world, phantom, ignite)
            )
        )
        await world.settle()
        assert world.members(phantom) == {phantom.uuid, specter.uuid, ignite.uuid}

    played(f"two hosts {seed}", scenario)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_command_twice_at_once_takes_the_host_in_once(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await asyncio.gather(*(succeeds(world, phantom, ignite) for _ in range(3)))
        await world.settle()
        assert world.members(phantom) == {phantom.uuid, ignite.uuid}
        assert world.points.count("phantom host.join:committed") == 1

    played(f"twice {seed}", scenario)


def test_a_request_that_met_a_task_under_way_finds_it_afterwards_too() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        first = await world.add_host(phantom, ignite)
        asked = world.new_request(phantom)
        assert (await world.add_host(phantom, ignite, asked=asked)).uuid == first.uuid
        assert (await world.finished(phantom, first)).status is TaskStatus.SUCCESS
        assert (await world.add_host(phantom, ignite, asked=asked)).uuid == first.uuid
        leave = await world.eject(phantom, ignite)
        asked = world.new_request(phantom)
        assert (await world.eject(phantom, ignite, asked=asked)).uuid == leave.uuid
        assert (await world.finished(phantom, leave)).status is TaskStatus.SUCCESS
        assert (await world.eject(phantom, ignite, asked=asked)).uuid == leave.uuid

    played("asked again", scenario)


def test_two_masters_that_take_each_other_do_not_both_succeed() -> None:
    async def scenario(world: World) -> None:
        phantom, specter = world.add("phantom", "specter")
        await world.settle()
        gotten = await asyncio.gather(
            succeeds(world, phantom, specter), succeeds(world, specter, phantom)
        )
        assert gotten.count(True) <= 1
        await world.settle()
        # Whoever is left over may be taken in afterwards.
        if not any(gotten):
            await world.join(phantom, specter)

    played("each other", scenario)


@pytest.mark.parametrize("point", [*JOIN_POINTS, "host.join:host-reserved"])
def test_a_link_that_is_cut_during_a_join_and_healed(point: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()

        def cut(_: SimHost, reached: str) -> None:
            if reached == point:
                world.network.cut(phantom.endpoint, ignite.endpoint)

        world.on_point = cut
        client = asyncio.ensure_future(succeeds(world, phantom, ignite))  # noqa: TID251
        await world.let_pass(6.0)
        world.on_point = lambda host, reached: None
        world.network.heal()
        await world.let_pass(ATTACH_SECONDS)
        await world.settle()
        if not await client:
            await world.join(phantom, ignite)
            await world.settle()
        assert ignite.uuid in world.members(phantom)

    played(f"cut {point}", scenario)


@pytest.mark.parametrize("point", EJECT_POINTS)
def test_a_link_that_is_cut_during_an_eject_and_healed(point: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await world.join(phantom, ignite)
        await world.settle()

        def cut(_: SimHost, reached: str) -> None:
            if reached == point:
                world.network.cut(phantom.endpoint, ignite.endpoint)

        world.on_point = cut
        task = await world.eject(phantom, ignite)
        await world.let_pass(6.0)
        world.on_point = lambda host, reached: None
        await world.settle()
        if (await world.finished(phantom, task)).status is not TaskStatus.SUCCESS:
            await world.leave(phantom, ignite)
            await world.settle()
        assert world.members(ignite) == {ignite.uuid}

    played(f"cut {point}", scenario)


def test_a_host_that_comes_back_before_its_eject_has_noticed_ends_that_eject() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await world.join(phantom, ignite)
        await world.settle()

        # The master's questions to the host whether it has gone stay without an answer.
        def cut(_: SimHost, reached: str) -> None:
            if reached == "host.eject:host-founded":
                world.network.cut(phantom.endpoint, ignite.endpoint)

        world.on_point = cut
        leaving = await world.eject(phantom, ignite)
        await world.until(lambda: "ignite host.eject:host-founded" in world.points)
        world.on_point = lambda host, reached: None
        await world.until(lambda: ignite.mastership is not None)
        world.network.heal()
        await world.join(phantom, ignite)
        assert (await world.finished(phantom, leaving)).status is TaskStatus.SUCCESS
        await world.settle()
        await world.leave(phantom, ignite)
        await world.settle()
        assert world.members(phantom) == {phantom.uuid}

    played("back too soon", scenario)


def test_what_comes_to_the_host_after_the_first_check_is_found_by_the_second() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()

        def define(_: SimHost, reached: str) -> None:
            if reached == "host.join:host-reserved":
                vms = (SimVm(name="web1"),)
                ignite.hypervisor.describe(replace(ignite.hypervisor.description, vms=vms))

        world.on_point = define
        ended = await world.finished(phantom, await world.add_host(phantom, ignite))
        assert ended.error is not None
        assert ended.error.reason == Reason.JOIN_REFUSED
        assert [finding.code for finding in ended.findings] == ["JOINING_HOST_CANNOT_HAVE_VMS"]
        await world.settle()
        assert world.members(phantom) == {phantom.uuid}

    played("a late VM", scenario)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("point", [*JOIN_POINTS, "host.join:host-reserved"])
def test_a_join_that_is_called_off_leaves_the_host_wholly_out_or_goes_to_its_end(
    point: str, seed: int
) -> None:
    async def scenario(world: World) -> None:
        phantom, specter, ignite = world.add("phantom", "specter", "ignite")
        await world.settle()
        await world.join(phantom, specter)
        await world.settle()
        cancelling: list[asyncio.Task[None]] = []

        async def cancel() -> None:
            assert phantom.mastership is not None
            joins = [t for t in phantom.mastership.state.all(Task) if not t.status.is_final]
            with suppress(PoolError):  # past its decision point it refuses
                await world.cancel(phantom, joins[0])

        def call_off(_: SimHost, reached: str) -> None:
            if reached == point and not cancelling:
                cancelling.append(asyncio.ensure_future(cancel()))  # noqa: TID251

        world.on_point = call_off
        ended = await world.finished(phantom, await world.add_host(phantom, ignite))
        await asyncio.gather(*cancelling)
        await world.settle()
        is_in = ignite.uuid in world.members(phantom)
        assert is_in is (ended.status is TaskStatus.SUCCESS)
        if not is_in:
            assert ended.status is TaskStatus.CANCELLED
            await world.join(phantom, ignite)

    played(f"called off {point} {seed}", scenario)


def test_a_host_believes_the_pool_alone_that_it_was_taken_in() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        assert phantom.life is not None
        assert phantom.mastership is not None
        reservation = Reservation(
            pool=phantom.mastership.pool,
            pool_name="phantom",
            task=TaskId("80000000-0000-4000-8000-000000000001"),
            addresses=(phantom.endpoint,),
        )
        await phantom.life.parts.agents.reserve(ignite.endpoint, reservation)
        with pytest.raises(PoolError) as refused:
            await phantom.life.parts.agents.adopt(
                ignite.endpoint, reservation.task, reservation.pool, store=None
            )
        assert refused.value.reason is Reason.RESERVATION_GONE
        # The pool knows nothing of such a join, and that is what ends the reservation.
        await world.settle()
        assert world.members(ignite) == {ignite.uuid}

    played("a made-up join", scenario)


def test_a_join_does_not_take_in_another_host_at_the_same_address() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        another = HostId("20000000-0000-4000-8000-00000000000f")

        def exchange(_: SimHost, reached: str) -> None:
            if reached == "host.join:started":
                world.network.slow_seconds = 0.5
                ignite.uuid, ignite.name = another, "wraith"
                ignite.reset()

        world.on_point = exchange
        task = await world.add_host(phantom, ignite)
        ended = await world.finished(phantom, task)
        assert ended.status is TaskStatus.FAILURE
        assert ended.error is not None
        assert ended.error.reason == Reason.HOST_UNREACHABLE
        await world.settle()
        assert world.members(phantom) == {phantom.uuid}

    played("another host", scenario)


@pytest.mark.parametrize("point", ["host.join:committed", "host.join:adopted"])
def test_a_host_that_was_reset_after_the_commit_is_taken_out_again(point: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()

        def reset(_: SimHost, reached: str) -> None:
            if reached == point:
                ignite.reset()

        # For this moment a person has made the host be in two pools.
        world.rules.check_membership = lambda: None  # type: ignore[method-assign]
        world.on_point = reset
        task = await world.add_host(phantom, ignite)
        ended = await world.finished(phantom, task)
        world.on_point = lambda host, reached: None
        assert ended.error is not None
        assert ended.error.reason == Reason.RESERVATION_GONE
        await world.settle()
        assert world.members(phantom) == {phantom.uuid}
        await world.join(phantom, ignite)
        await world.settle()
        assert world.members(phantom) == {phantom.uuid, ignite.uuid}

    played(f"reset {point}", scenario)
