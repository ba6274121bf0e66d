"""A majority of the pool's own etcd that a person has gone on without, and what becomes of it."""

from __future__ import annotations

from contextlib import suppress

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import State
from sim.host import SimHost
from sim.pairs import check_kept, state_of
from sim.test_own_etcd import NAMES, forgotten, in_etcd, trio
from sim.world import Crash, World, is_refused, play


def replica_of(host: SimHost) -> State | None:
    return None if host.life is None or host.life.follower is None else host.life.follower.state


def lives_of(host: SimHost) -> int:
    found = replica_of(host)
    return 0 if found is None else found.incarnation.counter


async def left(world: World) -> tuple[SimHost, SimHost, SimHost]:
    """The last master of an etcd, another voter, both without power, and who goes on alone."""
    (alone,) = world.add("wraith")
    hosts = await trio(world)
    await world.join(hosts[0], alone)
    await world.until(lambda: in_etcd(world, hosts[0]), seconds=200.0)
    await world.settle()
    master = next(host for host in hosts if host.mastership is not None)
    for host in hosts:
        world.network.cut(alone.endpoint, host.endpoint)
    await world.tag(master, "beyond the fork")
    await world.let_pass(1.0)
    for host in hosts:
        host.cut_power()
    await world.let_pass(3.0)
    await world.emergency(alone, accept_loss=True)
    await world.until(lambda: alone.mastership is not None)
    world.network.heal()
    return master, next(host for host in hosts if host is not master), alone


@pytest.mark.parametrize("seed", range(3))
def test_a_former_master_that_has_followed_a_newer_life_does_not_lead_the_older_one(
    seed: int,
) -> None:
    async def scenario(world: World) -> None:
        master, other, alone = await left(world)
        acknowledged = {"in the new life": await world.tag(alone, "in the new life")}
        life = state_of(world, alone).incarnation.counter
        master.power_on()
        await world.until(lambda: lives_of(master) == life)
        # Before it has ended its etcd, which now has a quorum again.
        alone.cut_power()
        assert master.disk.voter is not None
        other.power_on()
        for _ in range(100):
            await world.let_pass(0.1)
            assert master.mastership is None
            assert other.mastership is None
        alone.power_on()
        await world.settle()
        assert state_of(world, alone).incarnation.counter >= life
        check_kept(world, alone, acknowledged)

    play(f"a former master {seed}", scenario)


def test_an_etcd_that_is_only_just_there_again_keeps_a_person_from_going_on() -> None:
    async def scenario(world: World) -> None:
        hosts = await trio(world)
        await world.until(lambda: in_etcd(world, hosts[0]), seconds=200.0)
        await world.settle()
        alone, other, third = hosts
        for host in (other, third):
            host.cut_power()
        alone.cut_power()
        world.network.cut(alone.endpoint, other.endpoint)
        for host in (alone, other):
            host.power_on()
        await world.let_pass(30.0)
        world.network.heal()
        with pytest.raises(PoolError) as refused:
            await world.emergency(alone, accept_loss=True)
        assert is_refused(refused.value, Reason.QUORUM_LIVES)

    play("only just there again", scenario)


def test_a_host_in_step_that_does_not_vote_says_what_may_be_missing_after_a_move() -> None:
    async def scenario(world: World) -> None:
        voting = world.add(*NAMES, votes=True)
        (in_step,) = world.add("wraith")
        await world.settle()
        for host in (in_step, *voting[1:]):
            await world.join(voting[0], host)
        world.crash = Crash("pool.succession:founded", "after", NAMES)
        await world.until(lambda: world.crash is not None and world.crash.happened, seconds=60.0)
        found = replica_of(in_step)
        assert found is not None
        assert (found.pool.in_step, found.pool.voters) == (in_step.uuid, None)
        await world.let_pass(3.0)
        with pytest.raises(PoolError) as refused:
            await world.emergency(in_step)
        assert is_refused(refused.value, Reason.LOSS_NOT_ACCEPTED)

    play("in step without a vote", scenario)


def test_a_host_that_waits_for_a_quorum_to_move_its_store_learns_that_a_person_went_on() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        world.crash = Crash("pool.succession:ended", "after", ("ignite", "specter"))
        await world.until(lambda: world.crash is not None and world.crash.happened, seconds=60.0)
        world.network.cut(phantom.endpoint, ignite.endpoint)
        ignite.power_on()
        await world.let_pass(5.0)
        await world.emergency(ignite, accept_loss=True)
        await world.until(lambda: ignite.mastership is not None)
        life = state_of(world, ignite).incarnation.counter
        world.network.heal()
        await world.until(lambda: lives_of(phantom) == life)

    play("a person went on during a move", scenario)


def test_a_failing_disk_of_the_heir_that_leaves_etcd_ends_no_daemon() -> None:
    async def scenario(world: World) -> None:
        hosts = await trio(world)
        await world.until(lambda: in_etcd(world, hosts[0]), seconds=200.0)
        await world.settle()
        master = next(host for host in hosts if host.mastership is not None)
        lost = next(host for host in hosts if host is not master)
        lost.cut_power()
        await world.let_pass(5.0)
        await forgotten(world, master, lost)
        del world.hosts[lost.name]
        # It holds what it was given, and says each time that it may not.
        master.disk.failed_syncs = 1_000_000
        await world.let_pass(10.0)
        master.disk.failed_syncs = 0
        await world.settle()
        assert master.mastership is not None
        assert not in_etcd(world, master)

    play("a failing disk of the heir", scenario)


@pytest.mark.parametrize("fork", ["behind", "at the newest commit"])
def test_what_only_the_etcd_that_was_left_has_is_saved_though_its_master_is_gone(fork: str) -> None:
    async def scenario(world: World) -> None:
        (alone,) = world.add("wraith")
        hosts = await trio(world)
        await world.join(hosts[0], alone)
        await world.until(lambda: in_etcd(world, hosts[0]), seconds=200.0)
        await world.settle()
        master = next(host for host in hosts if host.mastership is not None)
        others = [host for host in hosts if host is not master]
        if fork == "behind":
            for host in hosts:
                world.network.cut(alone.endpoint, host.endpoint)
            await world.let_pass(5.0)
        last = state_of(world, master).revision
        # Committed by a majority of the voters, and told to nobody.
        world.crash = Crash("host.eject:started", "unanswered", NAMES)
        with suppress(PoolError):
            await world.eject(master, others[0])
        assert world.crash.happened
        await world.let_pass(3.0)
        await world.emergency(alone, accept_loss=True)
        await world.until(lambda: alone.mastership is not None)
        world.network.heal()
        for host in others:
            host.power_on()
        life = state_of(world, alone).incarnation.counter
        await world.until(lambda: all(lives_of(host) == life for host in others))
        saved = [r for host in others for r in await host.recoveries.all()]
        assert saved
        assert {recovery.last_revision for recovery in saved} == {last + 1}

    play(f"only in the etcd that was left, {fork}", scenario)
