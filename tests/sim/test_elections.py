"""Elections among hosts that share a store: when there is one, and when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import TaskStatus
from poolmaster.operations.designate import Designate
from poolmaster.store.contract import Store, StoreUnavailable
from poolmaster.store.memory import Fate, MemoryStore
from poolmember.identity import Membership
from sim.host import SimHost
from sim.world import Crash, World, play

SHARED = "sqlite:///shared.db"


async def trio(world: World) -> list[SimHost]:
    """Three hosts of one pool on a shared store; the first is the master."""
    return await pool_of(world, "phantom", "ignite", "specter")


async def pool_of(world: World, *names: str) -> list[SimHost]:
    """The hosts of one pool on a shared store; the first is the master."""
    hosts = world.add(*names, founds_in=SHARED)
    await world.settle()
    for joining in hosts[1:]:
        await world.join(hosts[0], joining)
    await world.settle()
    return hosts


def played(seed: object, scenario: Callable[[World], Coroutine[None, None, None]]) -> World:
    return play(seed, scenario)


@pytest.mark.parametrize("seed", range(5))
def test_a_master_that_loses_its_power_is_replaced_within_a_second(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        phantom.cut_power()
        died = world.clock.monotonic()
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=1.0)
        assert world.clock.monotonic() - died < 0.7
        new = ignite if ignite.mastership else specter
        await world.tag(new, "after")
        await world.settle()
        assert world.members(phantom) == {phantom.uuid, ignite.uuid, specter.uuid}
        assert phantom.mastership is None, "it came back as a member"

    played(f"replaced {seed}", scenario)


@pytest.mark.parametrize("seed", [0, 1, 11, 19])
def test_a_master_that_falls_silent_is_replaced_once(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, *others = await pool_of(world, "phantom", "ignite", "specter", "wraith", "shade")
        master = phantom.mastership
        assert master is not None
        term = master.ledger.head.term
        # Its sessions do not end; nothing comes of them any more.
        for other in others:
            world.network.cut(phantom.endpoint, other.endpoint)
        await world.until(lambda: any(o.mastership for o in others), seconds=2.0)
        await world.let_pass(5.0)
        masters = [o.mastership for o in others if o.mastership]
        assert [m.ledger.head.term for m in masters] == [term + 1]
        world.network.heal()
        await world.settle()

    played(f"silent {seed}", scenario)


async def mastered(world: World) -> SimHost:
    """The one host that is master, once there is one."""
    await world.until(lambda: [h for h in world.hosts.values() if h.mastership])
    (master,) = (h for h in world.hosts.values() if h.mastership)
    return master


def _leads_no_more(host: SimHost) -> bool:
    return host.mastership is None


def test_a_designated_host_is_the_master() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        for old, new in [(phantom, ignite), (ignite, specter), (specter, phantom)]:
            task = await world.designate(old, new)
            assert (await world.finished(old, task)).status is TaskStatus.SUCCESS
            # The old one is told a moment later.
            await world.let_pass(0.1)
            assert new.mastership is not None
            await world.until(partial(_leads_no_more, old))
        await world.settle()

    played("designated", scenario)


def test_designating_the_master_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        phantom, *_ = await trio(world)
        term = phantom.mastership.ledger.head.term if phantom.mastership else 0
        task = await world.designate(phantom, phantom)
        assert task.status is TaskStatus.SUCCESS
        await world.let_pass(1.0)
        assert phantom.mastership is not None
        assert phantom.mastership.ledger.head.term == term

    played("designated again", scenario)


@pytest.mark.parametrize("seed", range(3))
def test_a_master_that_falls_silent_for_a_drill_is_replaced_without_handing_over(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        master = phantom.mastership
        assert master is not None
        term = master.ledger.head.term
        task = await world.drill(phantom, term)
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=2.0)
        new = ignite if ignite.mastership else specter
        assert (await world.finished(new, task)).status is TaskStatus.SUCCESS
        await world.settle()
        assert phantom.mastership is None, "it found out by itself"
        assert new.mastership is not None
        assert new.mastership.ledger.head.term == term + 1

    played(f"drill {seed}", scenario)


def test_a_master_goes_on_when_nobody_claims_in_its_drill() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        master = phantom.mastership
        assert master is not None
        task = await world.drill(phantom, master.ledger.head.term)
        await world.until(lambda: master.drill.silent)
        # The others do not hear it, and cannot ask anybody either.
        for host in (ignite, specter):
            host.cut_power()
        ended = await world.finished(phantom, task)
        assert (ended.status, ended.error and ended.error.reason) == (
            TaskStatus.FAILURE,
            Reason.DRILL_FAILED,
        )
        assert not master.drill.silent
        await world.tag(phantom, "after")
        await world.settle()

    played("drill in vain", scenario)


POINTS = [*(f"{Designate.name}:{step.name}" for step in Designate.steps)]


@pytest.mark.parametrize("victim", ["phantom", "ignite", "specter"])
@pytest.mark.parametrize("moment", ["before", "unanswered", "after"])
@pytest.mark.parametrize("point", [*POINTS, f"{Designate.name}:writes-wait"])
def test_a_host_that_dies_during_a_handover_leaves_one_master(
    point: str, moment: str, victim: str
) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        world.crash = Crash(point, moment, (victim,))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.let_pass(3.0)
        master = await mastered(world)
        await world.tag(master, "it goes on")
        world.crash = None
        await world.settle()
        assert world.members(phantom) == {h.uuid for h in world.hosts.values()}
        # And the same command again succeeds.
        master = await mastered(world)
        await world.finished(master, await world.designate(master, ignite))
        await world.until(lambda: ignite.mastership)

    played(f"{point} {moment} {victim}", scenario)


@pytest.mark.parametrize("fate", [Fate.COMMIT_FAILED_APPLIED, Fate.COMMIT_FAILED_LOST])
@pytest.mark.parametrize("others", [(), ("ignite", "specter")])
def test_a_host_whose_store_failed_opens_it_anew_and_leads_again(
    fate: Fate, others: tuple[str, ...]
) -> None:
    async def scenario(world: World) -> None:
        handles: list[MemoryStore] = []
        world.on_handle = lambda host, handle: handles.append(handle)
        (phantom,) = world.add("phantom", founds_in=SHARED)
        await world.settle()
        first = handles[-1]
        for joining in world.add(*others):
            await world.settle()
            await world.join(phantom, joining)
        await world.settle()
        first.faults.plan(fate)
        with suppress(PoolError):
            await world.tag(phantom, "before")
        await mastered(world)
        for host in world.hosts.values():
            if host is not phantom:
                host.cut_power()
        await world.until(lambda: phantom.mastership, seconds=20.0)
        await world.settle()
        await world.tag(await mastered(world), "after")

    played(f"store failed {fate} {others}", scenario)


def test_a_master_that_is_cut_off_from_the_store_gives_up_and_is_replaced() -> None:
    async def scenario(world: World) -> None:
        handles: dict[str, MemoryStore] = {}

        def keep(host: SimHost, handle: MemoryStore) -> None:
            handles[host.name] = handle

        world.on_handle = keep
        phantom, ignite, specter = await trio(world)
        first = phantom.mastership
        assert first is not None
        handles["phantom"].faults.cut_off = True
        with pytest.raises(PoolError) as refused:
            await world.tag(phantom, "lost or unknown, never acknowledged")
        assert refused.value.reason in {
            Reason.STORE_UNAVAILABLE,
            Reason.OUTCOME_UNKNOWN,
            Reason.NO_MASTER,
        }
        await world.until(lambda: phantom.mastership is not first, seconds=2.0)
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=2.0)
        await world.tag(ignite if ignite.mastership else specter, "goes on")
        # It follows the new master, although it does not see the store.
        await world.let_pass(1.0)
        assert phantom.life is not None
        assert phantom.life.follower is not None
        assert phantom.life.follower.following is not None
        handles["phantom"].faults.cut_off = False
        await world.settle()
        assert phantom.mastership is None

    played("cut off from the store", scenario)


def test_members_that_hear_their_master_do_not_replace_it() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        first = phantom.mastership
        # specter alone does not hear it, however long.
        world.network.cut(phantom.endpoint, specter.endpoint)
        await world.let_pass(20.0)
        assert phantom.mastership is first
        assert ignite.mastership is None
        await world.settle()
        assert phantom.mastership is first

    played("one link is cut", scenario)


def test_the_last_of_three_hosts_takes_over_when_the_masters_key_has_expired() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        specter.cut_power()
        await world.let_pass(1.0)
        phantom.cut_power()
        died = world.clock.monotonic()
        await world.until(lambda: ignite.mastership, seconds=8.0)
        assert world.clock.monotonic() - died > 2.0, "the key was still alive"
        await world.tag(ignite, "alone")
        await world.settle()

    played("the last of three", scenario)


def test_the_master_hands_over_to_the_host_that_would_win_an_election() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        assert phantom.mastership is not None
        # Of equals the one whose uuid comes first, as when they claim; they are equal when both
        # have acknowledged everything.
        await world.let_pass(1.0)
        await phantom.mastership.handover.to_the_best()
        await world.until(lambda: ignite.mastership)
        assert specter.mastership is None
        await world.settle()

    played("the best of equals", scenario)


@pytest.mark.parametrize("how", ["designate", "eject"])
def test_a_new_master_gives_hosts_the_time_to_come_before_it_calls_them_offline(how: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        await world.designate(phantom, ignite)
        specter.cut_power()
        await world.until(lambda: ignite.mastership)
        asking = world.designate(ignite, specter) if how == "designate" else None
        asked = asyncio.ensure_future(  # noqa: TID251 - awaited below
            asking or world.eject(ignite, specter)
        )
        await world.let_pass(0.2)
        assert not asked.done()
        specter.power_on()
        task = await asked
        assert (await world.finished(ignite, task)).status is TaskStatus.SUCCESS

    played(f"{how} at once", scenario)


def test_a_host_that_does_not_reach_the_store_leaves_the_pool_when_it_is_ejected() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        master = phantom.mastership
        assert master is not None
        ignite.cut_power()
        ignite.power_on()
        assert ignite.life is not None
        files = ignite.life.files
        opened = files.open_store

        async def unreachable(membership: Membership) -> Store:
            if membership.store is not None:
                raise StoreUnavailable("it is not there")
            return await opened(membership)

        files.open_store = unreachable  # type: ignore[method-assign]
        await world.until(lambda: master.sessions.get(ignite.uuid))
        await world.leave(phantom, ignite)
        assert ignite.membership is not None
        assert ignite.membership.pool != master.pool
        await world.until(lambda: ignite.mastership)

    played("ejected without the store", scenario)
