"""A pool with an etcd of its own, and every misfortune that etcd meets.

Besides what may befall any pool (`sim.misfortunes`), the daemon of a host is killed and its etcd
lives on, or the other way round; a member is stopped with what it was sent, so that this lands
late or never; the leader changes; a member lags behind; old revisions are compacted. Somebody
watches the store all the time (`sim.etcd_rules`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

from poolcore.model import PoolId
from poolcore.replica import State
from poolmaster.store.memory import Fate
from sim.etcd_raft import RaftGroup
from sim.etcd_rules import MemberRules, StoreWatcher
from sim.etcd_state import Compact
from sim.host import SimHost
from sim.misfortunes import Misfortune, Misfortunes
from sim.own_etcd import EtcdCluster
from sim.pairs import state_of
from sim.world import World, play

FOUNDED_SECONDS = 60.0
WATCHED_SECONDS = 10.0
NAMES = ("phantom", "ignite", "specter", "banshee", "wraith", "revenant", "vector", "spectre")


async def pool_of(world: World, count: int) -> list[SimHost]:
    """A pool of so many hosts with an etcd of its own."""
    hosts = world.add(*NAMES[:count], votes=True)
    await world.settle()
    for joining in hosts[1:]:
        await world.join(hosts[0], joining)
    await world.until(
        lambda: state_of(world, hosts[0]).pool.voters is not None, seconds=FOUNDED_SECONDS
    )
    await world.settle()
    return hosts


def cluster_of(world: World, state: State) -> EtcdCluster:
    """The cluster that a pool's store is in."""
    assert state.pool.voters is not None
    return world.etcd.by_token[state.pool.voters.token]


class EtcdChaos(Misfortunes):
    """One run."""

    seconds = 12.0
    fates = (Fate.SERVED,)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.watcher: StoreWatcher
        self._founded: PoolId
        self._group: RaftGroup

    async def _begin(self) -> Sequence[SimHost]:
        hosts = await pool_of(self.world, self.dice.choice([3, 3, 4, 5]))
        state = state_of(self.world, hosts[0])
        cluster = cluster_of(self.world, state)
        MemberRules(self.world, cluster)
        self._founded, self._group = state.pool.uuid, cluster.group
        store = cluster.stores[state.incarnation.uuid]
        self.watcher = StoreWatcher(self.world, state, store)
        self.world.network.slow_seconds = self.dice.choice([0.002, 0.02])
        return hosts

    @property
    def _pool(self) -> PoolId:
        return self._founded

    def _may_happen(self) -> list[Misfortune]:
        return [
            self._power,
            self._kill,
            self._freeze,
            self._links,
            self._losses,
            self._clocks,
            self._disks,
            self._designate,
            self._leader_change,
            self._etcd_killed,
            self._etcd_stopped,
            self._etcd_stopped,
            self._lag,
            self._compact,
        ]

    def _look_on(self) -> Sequence[Coroutine[object, object, None]]:
        return [self.watcher.run()]

    async def _settled(self) -> None:
        await self.world.until(lambda: self.watcher.is_up_to_date, seconds=WATCHED_SECONDS)

    # -- misfortunes ------------------------------------------------------------------------------

    async def _kill(self) -> None:
        """A daemon dies, its host's etcd does not."""
        host = self._some_host()
        host.kill()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.05, 0.5, 3.0]))
        self._switch_on(host)

    async def _etcd_killed(self) -> None:
        host = self._some_host()
        host.kill_etcd()
        await self.world.clock.sleep(self.dice.choice([0.1, 0.5, 3.0]))
        host.start_etcd()

    async def _etcd_stopped(self) -> None:
        """What it was sent meanwhile lands when it goes on, if it lands at all."""
        process = self._some_host().etcd
        if process is not None:
            process.freeze()
            await self.world.clock.sleep(self.dice.choice([0.05, 0.4, 1.5, 3.0, 5.0]))
            if not process.over:
                process.thaw()

    async def _leader_change(self) -> None:
        """The leader gives up: nobody serves until another one leads."""
        for node in self._group.nodes:
            if node.awake and node.leads:
                self._group.depose(node)

    async def _lag(self) -> None:
        process = self._any_host().etcd
        if process is not None:
            process.node.lags = True
            await self.world.clock.sleep(self.dice.choice([0.1, 0.5, 2.0]))
            process.node.lags = False

    async def _compact(self) -> None:
        """Nothing is kept but what there is now."""
        leader = next((n for n in self._group.nodes if n.awake and n.leads), None)
        if leader is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._group.propose(leader, Compact(leader.state.revision))


def run(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> World:
    """One run; AssertionError when a rule is broken. `plant` may plant a bug."""

    async def scenario(world: World) -> None:
        plant(world)
        await EtcdChaos(world).play()

    return play(f"etcd chaos {seed}", scenario)
