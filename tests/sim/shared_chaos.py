"""Hosts of one pool that share its store, and every misfortune that makes them elect a master.

For a while masters lose their power or are stopped, hosts are designated, links are cut in one
direction or in both, messages are lost, clocks jump, disks are full or fail, handles are cut off
from the store or slow, transactions fail, get lost or land late; then everything is healed and has
to settle. Besides the rules of the world: no two hosts are masters of one term, and what clients
are promised holds (`sim.clients`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from poolcore.errors import PoolError
from poolcore.model import PoolId
from poolmaster.mastership import Mastership
from poolmaster.store.contract import LeaseGone
from poolmaster.store.memory import Fate, MemoryStore
from sim.clients import Clients
from sim.host import SimHost
from sim.world import World, play

SHARED = "sqlite:///shared.db"
SECONDS = 10.0
CALM_SECONDS = 3.0
WRITERS = 3
FATES = [
    *[Fate.SERVED] * 60,
    Fate.REFUSED,
    Fate.UNKNOWN_APPLIED,
    Fate.UNKNOWN_LOST,
    Fate.UNKNOWN_LATE,
    Fate.UNKNOWN_LATE,
    Fate.COMMIT_FAILED_APPLIED,
    Fate.COMMIT_FAILED_LOST,
]


class SharedChaos:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice
        self.troubled = False
        self._latency_seconds = 0.0005
        """Of the store, for everybody."""
        self._handles: dict[str, MemoryStore] = {}
        self._late: list[MemoryStore] = []
        world.on_handle = self._keep

    async def play(self) -> None:
        """Make trouble, then peace."""
        world = self.world
        names = ["phantom", "ignite", "specter", "banshee"][: self.dice.choice([2, 3, 3, 4])]
        first, *others = world.add(*names, founds_in=SHARED)
        (self.guest,) = world.add("guest")
        await world.settle()
        for joining in others:
            await world.join(first, joining)
        await world.settle()
        world.network.slow_seconds = self.dice.choice([0.002, 0.02])
        # A slow store is where claims meet.
        self._latency_seconds = self.dice.choice([0.0005, 0.0005, 0.03, 0.12, 0.2])
        for handle in self._handles.values():
            handle.faults.latency_seconds = self._latency_seconds
        misfortunes: list[Callable[[], Awaitable[None]]] = [
            self._power,
            self._freeze,
            self._links,
            self._losses,
            self._clocks,
            self._disks,
            self._cut_off,
            self._outage,
            self._slowness,
            self._designate,
            self._land_late,
            self._come_and_go,
        ]
        # Not everything at once in every run: what one misfortune ends another cannot meet.
        chosen = [misfortune for misfortune in misfortunes if self.dice.random() < 0.5]
        self.troubled = self.dice.random() < 0.5
        async with asyncio.TaskGroup() as tasks:
            self.clients = clients = Clients(world, self._pool, [first, *others])
            acting, looking = clients.start(tasks, writers=WRITERS)
            acting += [tasks.create_task(self._over_and_over(m)) for m in chosen]
            acting.append(tasks.create_task(self._watch_masters()))
            await world.let_pass(SECONDS)
            for task in acting:
                task.cancel()
            await self._peace()
            await world.settle()
            await clients.settle()
            for task in looking:
                task.cancel()
        clients.check()
        world.rules.registers[self._pool].check_whole()
        world.violations.raise_any()

    async def _peace(self) -> None:
        """Nothing goes wrong any more; half of the time the hosts find out by themselves."""
        self._latency_seconds = 0.0005
        for handle in self._handles.values():
            handle.faults.cut_off, handle.faults.latency_seconds = False, self._latency_seconds
        if self.troubled or self.dice.random() < 0.5:
            self.troubled = False
            for host in self.world.hosts.values():
                host.cut_power()
        else:
            self.world.calm()
            # What is under way at a slow store ends.
            await self.world.let_pass(CALM_SECONDS)

    @property
    def _pool(self) -> PoolId:
        return self.world.shared[SHARED].pool

    # -- misfortunes ------------------------------------------------------------------------------

    def _keep(self, host: SimHost, handle: MemoryStore) -> None:
        self._handles[host.name] = handle
        self._late.append(handle)
        handle.faults.latency_seconds = self._latency_seconds
        if self.troubled:
            dice = random.Random(f"{self.world.seed} {host.name} {self.world.clock.monotonic()}")
            handle.faults.plan(*(dice.choice(FATES) for _ in range(500)))

    async def _over_and_over(self, misfortune: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.world.clock.sleep(self.dice.uniform(0.1, 2.0))
            await misfortune()

    def _some_host(self) -> SimHost:
        """Most often one that is master."""
        hosts = list(self.world.hosts.values())
        masters = [host for host in hosts if host.mastership is not None]
        return self.dice.choice(masters if masters and self.dice.random() < 0.7 else hosts)

    async def _power(self) -> None:
        host = self._some_host()
        host.cut_power()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.05, 0.5, 3.0]))
        host.power_on()

    async def _freeze(self) -> None:
        """A daemon is stopped, as by SIGSTOP."""
        host = self._some_host()
        host.freeze()
        await self.world.clock.sleep(self.dice.choice([0.05, 0.4, 1.5, 5.0]))
        host.thaw()

    async def _links(self) -> None:
        """Nothing gets from one host, or client, to another, or neither way."""
        one = self._some_host().endpoint
        everywhere = [host.endpoint for host in self.world.hosts.values()]
        other = self.dice.choice([*everywhere, self._some_host().endpoint, *self.clients.names])
        ends = self.dice.choice([(one, other), (other, one)])
        if one != other:
            self.world.network.cut(*ends, one_way=self.dice.random() < 0.5)
            await self.world.clock.sleep(self.dice.choice([0.05, 0.6, 5.0]))
            self.world.network.heal(*ends)

    async def _losses(self) -> None:
        self.world.network.losses = self.dice.choice([0.001, 0.01, 0.05])
        await self.world.clock.sleep(self.dice.choice([0.5, 2.0]))
        self.world.network.losses = 0.0

    async def _clocks(self) -> None:
        """A host's time of day jumps, and later back."""
        clock = self._some_host().clock
        clock.ahead = timedelta(hours=self.dice.choice([-1, 1]))
        await self.world.clock.sleep(self.dice.choice([0.3, 3.0]))
        clock.ahead = timedelta()

    async def _disks(self) -> None:
        """A disk is full for a while, or fails to say that what it was given is safe."""
        disk = self._some_host().disk
        disk.failed_syncs = self.dice.choice([0, 1, 3])
        disk.full = not disk.failed_syncs
        await self.world.clock.sleep(self.dice.choice([0.3, 2.0]))
        disk.full = False

    async def _cut_off(self) -> None:
        handle = self._handles[self._some_host().name]
        handle.faults.cut_off = True
        await self.world.clock.sleep(self.dice.choice([0.05, 0.6, 1.5, 4.0]))
        handle.faults.cut_off = False

    async def _outage(self) -> None:
        """Nobody reaches the store, sometimes until the lease of `alive` has ended."""
        handles = list(self._handles.values())
        for handle in handles:
            handle.faults.cut_off = True
        await self.world.clock.sleep(self.dice.choice([0.3, 5.5, 5.5]))
        for handle in handles:
            handle.faults.cut_off = False

    async def _slowness(self) -> None:
        handle = self._handles[self._some_host().name]
        handle.faults.latency_seconds = self.dice.choice([0.02, 0.1, 0.3, 1.5])
        await self.world.clock.sleep(self.dice.choice([0.3, 2.0]))
        handle.faults.latency_seconds = self._latency_seconds

    async def _designate(self) -> None:
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(self.dice.choice([0.05, 3.0])):
                await self.world.designate(self._any_host(), self._any_host())

    async def _come_and_go(self) -> None:
        """A host is taken in, or ejected."""
        at = self.dice.choice(self._insiders)
        inside = self.guest.uuid in self.world.members(at)
        command = self.world.eject if inside else self.world.add_host
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(self.dice.choice([0.2, 3.0])):
                await command(at, self.guest)

    @property
    def _insiders(self) -> list[SimHost]:
        """The hosts that are of the pool all the time."""
        return [host for host in self.world.hosts.values() if host is not self.guest]

    def _any_host(self) -> SimHost:
        return self.dice.choice(list(self.world.hosts.values()))

    async def _land_late(self) -> None:
        for handle in self._late:
            while handle.faults.late:
                late = handle.faults.late.pop(0)
                with suppress(LeaseGone):
                    late.land() if self.dice.random() < 0.7 else late.drop()

    # -- who looks on -----------------------------------------------------------------------------

    async def _watch_masters(self) -> None:
        """No two hosts believe to be master of the same term."""
        while True:
            terms = [m.ledger.head.term for m in self._masterships() if m.pool == self._pool]
            self.world.rules.expect(len(terms) == len(set(terms)), f"masters of terms {terms}")
            await self.world.clock.sleep(0.02)

    def _masterships(self) -> list[Mastership]:
        return [h.mastership for h in self.world.hosts.values() if h.mastership is not None]


def run(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> World:
    """One run; AssertionError when a rule is broken. `plant` may plant a bug."""

    async def scenario(world: World) -> None:
        plant(world)
        await SharedChaos(world).play()

    return play(f"shared chaos {seed}", scenario)
