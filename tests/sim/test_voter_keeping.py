"""Who votes in a pool that grows, shrinks and loses hosts: the product keeps its voters itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sim.etcd_chaos import cluster_of, pool_of
from sim.etcd_rules import MemberRules, why_not_kept
from sim.host import SimHost
from sim.pairs import check_kept, state_of
from sim.test_own_etcd import forgotten
from sim.world import World, play

KEPT_SECONDS = 120.0


async def kept(world: World, at: SimHost) -> None:
    """Wait until as many vote as are to."""

    def are_kept() -> bool:
        state = state_of(world, at)
        return why_not_kept(state, cluster_of(world, state)) is None

    await world.until(are_kept, seconds=KEPT_SECONDS)
    await world.settle()


def voting(world: World, hosts: Sequence[SimHost]) -> list[str]:
    voters = state_of(world, hosts[0]).pool.voters
    return [] if voters is None else [h.name for h in hosts if h.uuid in voters.hosts]


@pytest.mark.parametrize("seed", range(2))
def test_five_of_seven_hosts_vote_three_of_six_and_two_need_no_etcd(seed: int) -> None:
    async def scenario(world: World) -> None:
        watched: list[MemberRules] = []
        world.etcd.on_cluster = lambda cluster: watched.append(MemberRules(world, cluster))
        hosts = await pool_of(world, 7)
        phantom = hosts[0]
        await kept(world, phantom)
        assert len(voting(world, hosts)) == watched[0].most == 5
        acknowledged = {"five": await world.tag(phantom, "five")}
        while len(hosts) > 2:
            master = next(host for host in hosts if host.mastership is not None)
            leaving = world.dice.choice([h for h in hosts if h not in (master, phantom)])
            await world.leave(master, leaving)
            hosts.remove(leaving)
            if len(hosts) > 2:
                await kept(world, phantom)
                assert len(voting(world, hosts)) == 3
            left = f"{len(hosts)} hosts"
            acknowledged[left] = await world.tag(phantom, left)
        await world.until(lambda: state_of(world, phantom).pool.voters is None)
        await world.settle()
        await world.until(lambda: all(host.disk.voter is None for host in world.hosts.values()))
        check_kept(world, phantom, acknowledged)

    play(f"seven hosts and fewer {seed}", scenario)


@pytest.mark.parametrize("seed", range(3))
def test_voters_that_are_lost_for_good_are_replaced_one_after_the_other(seed: int) -> None:
    async def scenario(world: World) -> None:
        hosts = await pool_of(world, 8)
        await kept(world, hosts[0])
        acknowledged: dict[str, int] = {}
        for _ in range(3):
            lost = world.dice.choice([h for h in hosts if h.name in voting(world, hosts)])
            lost.cut_power()
            hosts.remove(lost)
            await world.until(lambda: any(host.mastership for host in hosts))
            master = next(host for host in hosts if host.mastership is not None)
            await forgotten(world, master, lost)
            del world.hosts[lost.name]
            tag = f"without {lost.name}"
            acknowledged[tag] = await world.tag(hosts[0], tag)
            await kept(world, hosts[0])
        assert len(hosts) == 5
        check_kept(world, hosts[0], acknowledged)

    play(f"lost one after the other {seed}", scenario)
