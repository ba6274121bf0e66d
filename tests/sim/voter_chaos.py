"""Hosts of a pool with an etcd of its own come and go, and its voters are kept.

Two hosts stay. The others are ejected, lost for good and forgotten, or silent for longer than a
voter may be; and they join, some of them again. Voters fall silent for a moment all the time, and
at most one host is away for long: a pool that has lost a majority of its voters waits for a person.
In the end as many vote as are to, and in a pool of two the store is on the master's disk again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from poolcore.errors import PoolError
from poolcore.model import PoolId
from poolmanager.v1 import host_service_pb2 as host_pb
from poolmanager.v1 import pool_service_pb2 as pb
from poolmanager.v1 import resources_pb2
from poolmaster.decide.voters import VOTERS
from poolmaster.store.memory import Fate
from sim.etcd_chaos import cluster_of, pool_of
from sim.etcd_rules import MemberRules, why_not_kept
from sim.host import SimHost
from sim.misfortunes import Misfortune, Misfortunes
from sim.own_etcd import EtcdCluster
from sim.pairs import state_of
from sim.world import World, play

STAY = 2
REPLACED_SECONDS = 200.0
"""So long it may take until all that are to vote do: one at a time, with etcd's pauses."""


class VoterChaos(Misfortunes):
    """One run."""

    seconds = 25.0
    writers = 1
    fates = (Fate.SERVED,)
    short_history = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._founded: PoolId
        self._staying: list[SimHost]
        self._away: SimHost | None = None
        """The host that is lost, or silent for long."""
        self._over = False
        """Whether nobody else goes away."""
        world.etcd.on_cluster = self._watch_members

    def _watch_members(self, cluster: EtcdCluster) -> None:
        cluster.group.batch = self.dice.choice([5, 50, 1_000])
        MemberRules(self.world, cluster)

    async def _begin(self) -> Sequence[SimHost]:
        hosts = await pool_of(self.world, self.dice.choice([3, 4, 6, 7, 8]))
        self._staying = hosts[:STAY]
        self._founded = state_of(self.world, hosts[0]).pool.uuid
        await self._replaces_after(hosts[0], self.dice.choice([4.0, 8.0, 15.0]))
        return self._staying

    async def _replaces_after(self, at: SimHost, seconds: float) -> None:
        request = pb.UpdatePoolRequest(
            failover=resources_pb2.FailoverTimings(replace_voter_seconds=seconds),
            request_id=self.world.new_request(at),
        )
        await self.world.ask(at, "PoolService/UpdatePool", request)

    @property
    def _pool(self) -> PoolId:
        return self._founded

    @property
    def _others(self) -> list[SimHost]:
        """Those that come and go, as far as they are there."""
        return [h for h in self.world.hosts.values() if h not in (*self._staying, self._away)]

    def _may_happen(self) -> list[Misfortune]:
        return [
            self._eject,
            self._eject,
            self._join,
            self._join,
            self._lose,
            self._silent,
            self._flap,
            self._kill,
            self._links,
            self._designate,
        ]

    async def _settled(self) -> None:
        if self.dice.random() < 0.3:
            await self._shrink()
        await self.world.until(lambda: self._why_not_kept() is None, seconds=REPLACED_SECONDS)

    def _why_not_kept(self) -> str | None:
        register = self.world.rules.registers[self._pool]
        state = register.state
        if len(self.world.members(self._staying[0])) < VOTERS:
            left = state.pool.voters is None
            return None if left else "the store of two hosts is in etcd"
        if state.pool.voters is None:
            return "the pool has no etcd"
        return why_not_kept(state, cluster_of(self.world, state))

    async def _shrink(self) -> None:
        """All go but two."""
        if self._master() not in self._staying:
            await self.world.designate(self._master(), self._staying[0])
            await self.world.until(lambda: self._master() is self._staying[0])
            await self.world.settle()
        for host in self._others:
            if host.uuid in self.world.members(self._staying[0]):
                await self.world.leave(self._master(), host)
        await self.world.settle()

    def _master(self) -> SimHost:
        masters = [h for h in self.world.hosts.values() if h.mastership is not None]
        of_pool = [h for h in masters if h.mastership and h.mastership.pool == self._pool]
        return of_pool[0] if of_pool else self._staying[0]

    def _are_there(self, *, without_etcd: bool = False) -> bool:
        """Whether every voter runs; or `without_etcd`, if there is none."""
        voters = self.world.rules.registers[self._pool].state.pool.voters
        if voters is None:
            return without_etcd
        voting = [h for h in self.world.hosts.values() if h.uuid in voters.hosts]
        running = [h for h in voting if h.etcd is not None and h.etcd.node.awake]
        return len(running) == len(voters.hosts)

    def _may_go(self) -> bool:
        """Whether a host may go away that will be missed."""
        return self._away is None and not self._over and self._are_there()

    # -- who comes and goes -----------------------------------------------------------------------

    async def _eject(self) -> None:
        """At most one at a time, and in peace: to eject is a person's decision."""
        inside = [h for h in self._others if h.uuid in self.world.members(self._staying[0])]
        if inside and self._are_there(without_etcd=True):
            with suppress(PoolError):
                await self.world.eject(self._master(), self.dice.choice(inside))
        await self.world.clock.sleep(self.dice.choice([1.0, 10.0]))

    async def _join(self) -> None:
        outside = [h for h in self._others if h.uuid not in self.world.members(self._staying[0])]
        if outside:
            with suppress(PoolError):
                await self.world.add_host(self._master(), self.dice.choice(outside))
        await self.world.clock.sleep(self.dice.choice([0.5, 5.0]))

    async def _lose(self) -> None:
        """A host burns down, and a person says so; what is put in its place is started over."""
        inside = [h for h in self._others if h.uuid in self.world.members(self._staying[0])]
        if not inside or not self._may_go():
            return
        lost = self._away = self.dice.choice(inside)
        lost.cut_power()
        await self.world.clock.sleep(self.dice.choice([1.0, 5.0]))
        del self.world.hosts[lost.name]
        await self._forget(lost)
        await self.world.clock.sleep(self.dice.choice([0.0, 5.0]))
        self.world.hosts[lost.name] = lost
        lost.reset()
        self._away = None

    async def _forget(self, lost: SimHost) -> None:
        """Until it is done: a host that is gone for good is not left in the pool."""
        while lost.uuid in self.world.members(self._staying[0]):
            asked = self.world.new_request(self._staying[0])
            dead = host_pb.DeclareHostDeadRequest(host=lost.name, request_id=asked)
            with suppress(PoolError):
                await self.world.ask(self._master(), "HostService/DeclareHostDead", dead)
                asked = self.world.new_request(self._staying[0])
                gone = host_pb.ForgetHostRequest(host=lost.name, request_id=asked)
                await self.world.ask(self._master(), "HostService/ForgetHost", gone)
            await self.world.clock.sleep(0.5)

    async def _finish(self) -> None:
        self._over = True
        await self.world.until(lambda: self._away is None, seconds=REPLACED_SECONDS)

    async def _silent(self) -> None:
        """A voter is off for about as long as it may be, and comes back."""
        if not self._may_go():
            return
        host = self._away = self._any_host()
        host.cut_power()
        await self.world.clock.sleep(self.dice.uniform(2.0, 20.0))
        host.power_on()
        self._away = None

    async def _flap(self) -> None:
        """An etcd is there and not there."""
        host = self._any_host()
        for _ in range(self.dice.choice([1, 3, 6])):
            host.kill_etcd()
            await self.world.clock.sleep(self.dice.choice([0.1, 0.5, 1.5]))
            if host.life is not None:
                host.start_etcd()
            await self.world.clock.sleep(self.dice.choice([0.2, 1.0, 3.0]))

    async def _kill(self) -> None:
        """A daemon dies, its host's etcd does not."""
        host = self._some_host()
        if host is not self._away:
            host.kill()
            await self.world.clock.sleep(self.dice.choice([0.05, 0.5]))
            host.power_on()


def run(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> World:
    """One run; AssertionError when a rule is broken. `plant` may plant a bug."""

    async def scenario(world: World) -> None:
        plant(world)
        await VoterChaos(world).play()

    return play(f"voter chaos {seed}", scenario)
