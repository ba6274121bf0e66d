"""Hosts that contend for a mastership, at the moments at which that goes wrong most easily."""

from __future__ import annotations

from contextlib import suppress

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import TaskStatus
from poolmaster.mastership import Mastership
from poolmaster.store.memory import MemoryStore
from sim.host import SimHost
from sim.pairs import state_of
from sim.test_elections import SHARED, mastered, trio
from sim.world import Crash, World, play


def handles_of(world: World) -> dict[str, MemoryStore]:
    """The store handle that each host has opened last, by the host's name."""
    handles: dict[str, MemoryStore] = {}

    def keep(host: SimHost, handle: MemoryStore) -> None:
        handles[host.name] = handle

    world.on_handle = keep
    return handles


def attached(master: Mastership, *hosts: SimHost) -> list[SimHost]:
    """Those of the hosts that have a session with the master."""
    return [host for host in hosts if master.sessions.get(host.uuid) is not None]


def test_a_host_that_was_ejected_unawares_never_leads_the_pool() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        ignite.cut_power()
        # The commit that removes the host is the last thing that the master does.
        world.crash = Crash("host.eject:evicted", "unanswered", ("phantom",))
        with suppress(PoolError):
            await world.eject(phantom, specter)
        await world.until(lambda: phantom.life is None)
        for _ in range(200):
            assert specter.mastership is None, "it leads a pool that it is not of"
            await world.let_pass(0.05)
        world.crash = None
        await world.settle()
        assert world.members(phantom) == {phantom.uuid, ignite.uuid}

    play("ejected unawares", scenario)


@pytest.mark.parametrize("seconds", [0.15, 0.3])
def test_a_slow_store_delays_a_new_master_and_does_not_prevent_it(seconds: float) -> None:
    async def scenario(world: World) -> None:
        handles = handles_of(world)
        phantom, ignite, specter = await trio(world)
        for handle in handles.values():
            handle.faults.latency_seconds = seconds
        phantom.cut_power()
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=10.0)
        await world.tag(await mastered(world), "slowly")

    play(f"slow store {seconds}", scenario)


def test_a_handover_that_was_told_as_failed_does_not_happen_later() -> None:
    async def scenario(world: World) -> None:
        handles = handles_of(world)
        phantom, ignite, _ = await trio(world)
        handles["ignite"].faults.latency_seconds = 1.2
        ended = await world.finished(phantom, await world.designate(phantom, ignite))
        assert ended.status is TaskStatus.FAILURE
        assert phantom.mastership is not None
        await world.let_pass(10.0)
        assert phantom.mastership is not None, "what was told as failed has happened"

    play("given up", scenario)


def test_a_master_that_hangs_at_its_store_follows_its_successor() -> None:
    async def scenario(world: World) -> None:
        handles = handles_of(world)
        phantom, ignite, specter = await trio(world)
        handles["phantom"].faults.latency_seconds = 60.0
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=5.0)
        new = ignite if ignite.mastership else specter

        def follows() -> bool:
            return new.mastership is not None and bool(attached(new.mastership, phantom))

        await world.until(follows, seconds=10.0)

    play("hangs", scenario)


def test_a_join_that_finds_the_store_away_is_refused_with_that_reason() -> None:
    async def scenario(world: World) -> None:
        handles = handles_of(world)
        phantom, *_ = await trio(world)
        assert phantom.mastership is not None
        handles["phantom"].faults.cut_off = True
        with pytest.raises(PoolError) as refused:
            await phantom.mastership.examiner.own_nonce()
        assert refused.value.reason is Reason.STORE_UNAVAILABLE

    play("store away", scenario)


def test_a_host_finds_a_master_that_joined_while_it_was_away() -> None:
    async def scenario(world: World) -> None:
        phantom, specter = world.add("phantom", "specter", founds_in=SHARED)
        await world.settle()
        await world.join(phantom, specter)
        await world.settle()
        specter.cut_power()
        (ignite,) = world.add("ignite")
        await world.let_pass(4.0)
        await world.join(phantom, ignite)
        phantom.cut_power()
        await world.until(lambda: ignite.mastership, seconds=20.0)
        specter.power_on()

        def found() -> bool:
            masterships = [h.mastership for h in (ignite, specter) if h.mastership is not None]
            return any(len(attached(m, ignite, specter)) == 2 for m in masterships)

        await world.until(found, seconds=15.0)

    play("joined meanwhile", scenario)


def test_a_host_whose_store_hangs_while_it_takes_its_mastership_up_again_follows_another() -> None:
    async def scenario(world: World) -> None:
        handles = handles_of(world)
        phantom, ignite, specter = await trio(world)
        phantom.cut_power()
        keep = world.on_handle

        def slow(host: SimHost, handle: MemoryStore) -> None:
            keep(host, handle)
            handle.faults.latency_seconds = 0.01

        world.on_handle = slow
        phantom.power_on()
        # It has read that the register names it, and has begun to claim.
        await world.clock.sleep(0.015)
        handles["phantom"].faults.latency_seconds = 60.0
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=5.0)
        new = ignite if ignite.mastership else specter

        def follows() -> bool:
            return new.mastership is not None and bool(attached(new.mastership, phantom))

        await world.until(follows, seconds=10.0)

    play("hangs while claiming", scenario)


def test_a_person_makes_one_go_on_without_the_store() -> None:
    async def scenario(world: World) -> None:
        handles = handles_of(world)
        phantom, ignite, specter = await trio(world)
        await world.tag(phantom, "before")
        for handle in handles.values():
            handle.faults.cut_off = True
        await world.until(lambda: phantom.mastership is None)
        with pytest.raises(PoolError) as refused:
            await world.tag(ignite, "meanwhile")
        assert refused.value.reason is Reason.NO_MASTER
        shared = dict(handles)
        await world.emergency(ignite, accept_loss=True)
        await world.tag(ignite, "after")
        # The store is back, and nobody leads from it any more.
        for handle in shared.values():
            handle.faults.cut_off = False
        await world.until(lambda: all(h.membership.store is None for h in (phantom, specter)))  # type: ignore[union-attr]  # each is of the pool
        phantom.cut_power()
        specter.cut_power()
        await world.settle()
        assert [h for h in world.hosts.values() if h.mastership is not None] == [ignite]
        assert state_of(world, specter).pool.tags == {"before", "after"}

    play("without the store", scenario)


def test_no_emergency_while_the_store_is_there() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        phantom.cut_power()
        with pytest.raises(PoolError) as refused:
            await world.emergency(ignite, accept_loss=True)
        assert refused.value.reason in {Reason.QUORUM_LIVES, Reason.ALREADY_MASTER}

    play("the store is there", scenario)
