"""A majority of the pool's own etcd that a person has gone on without, and what becomes of it."""

from __future__ import annotations

import pytest

from poolcore.replica import State
from sim.host import SimHost
from sim.pairs import check_kept, state_of
from sim.test_own_etcd import in_etcd, trio
from sim.world import World, play


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
