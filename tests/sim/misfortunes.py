"""What may befall the hosts of one pool, drawn from one seed, and a run made of such misfortunes.

For a while hosts lose their power or are stopped, hosts are designated, links are cut in one
direction or in both, messages are lost, clocks jump, disks are full or fail, a host comes and
goes, transactions fail, get lost or land late; then everything is healed and has to settle.
Besides the rules of the world: no two hosts are masters of one term, and what clients are promised
holds (`sim.clients`).
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta

from poolcore.errors import PoolError
from poolcore.model import PoolId
from poolmaster.mastership import Mastership
from poolmaster.store.contract import LeaseGone
from poolmaster.store.memory import Fate, MemoryStore
from sim.clients import Clients
from sim.host import SimHost
from sim.world import World

Misfortune = Callable[[], Awaitable[None]]

CALM_SECONDS = 3.0
MISHAPS = [
    Fate.REFUSED,
    Fate.UNKNOWN_APPLIED,
    Fate.UNKNOWN_LOST,
    Fate.UNKNOWN_LATE,
    Fate.COMMIT_FAILED_APPLIED,
    Fate.COMMIT_FAILED_LOST,
]
"""What becomes of a transaction that is not simply served."""


class Misfortunes(ABC):
    """One run: how its pool comes to be and what may happen to it is up to its kind."""

    seconds: float
    """How long there is trouble."""
    fates: Sequence[Fate]
    """What a transaction may come to."""
    writers = 3
    """How many clients write: what they leave is kept, and an object has only so many tags."""
    short_history = False
    """Whether a watcher may be told that what it asks for is no longer kept."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice
        self.troubled = False
        self.clients: Clients
        self._late: list[MemoryStore] = []
        world.on_handle = self._keep

    @abstractmethod
    async def _begin(self) -> Sequence[SimHost]:
        """Make the pool; its hosts."""

    @abstractmethod
    def _may_happen(self) -> list[Misfortune]:
        """What may happen; what stands there twice happens more often."""

    @property
    @abstractmethod
    def _pool(self) -> PoolId:
        """The pool that clients use."""

    async def play(self) -> None:
        """Make trouble, then peace."""
        world = self.world
        hosts = await self._begin()
        # Not everything at once in every run: what one misfortune ends another cannot meet.
        chosen = [misfortune for misfortune in self._may_happen() if self.dice.random() < 0.5]
        self.troubled = self.dice.random() < 0.5
        async with asyncio.TaskGroup() as tasks:
            self.clients = Clients(world, self._pool, hosts, short_history=self.short_history)
            acting, looking = self.clients.start(tasks, writers=self.writers)
            acting += [tasks.create_task(self._over_and_over(m)) for m in chosen]
            acting.append(tasks.create_task(self._watch_masters()))
            looking += [tasks.create_task(look) for look in self._look_on()]
            await world.let_pass(self.seconds)
            await self._finish()
            for task in acting:
                task.cancel()
            await self._peace()
            await world.settle()
            await self.clients.settle()
            await self._settled()
            for task in looking:
                task.cancel()
        self.clients.check()
        world.rules.registers[self._pool].check_whole()
        world.violations.raise_any()

    async def _finish(self) -> None:
        """Let end what must not be broken off."""
        return

    async def _peace(self) -> None:
        """Nothing goes wrong any more; half of the time the hosts find out by themselves."""
        if self.troubled or self.dice.random() < 0.5:
            self.troubled = False
            for host in self.world.hosts.values():
                host.cut_power()
        else:
            self.world.calm()
            # What is under way at a slow store ends.
            await self.world.let_pass(CALM_SECONDS)

    def _look_on(self) -> Sequence[Coroutine[object, object, None]]:
        """Who looks on until all is over."""
        return ()

    async def _settled(self) -> None:
        """Wait for what has to come to hold in the end."""
        return

    async def _over_and_over(self, misfortune: Misfortune) -> None:
        while True:
            await self.world.clock.sleep(self.dice.uniform(0.1, 2.0))
            await misfortune()

    # -- whom it befalls --------------------------------------------------------------------------

    def _any_host(self) -> SimHost:
        return self.dice.choice(list(self.world.hosts.values()))

    def _some_host(self) -> SimHost:
        """Most often one that is master."""
        masters = [host for host in self.world.hosts.values() if host.mastership is not None]
        often = bool(masters) and self.dice.random() < 0.7
        return self.dice.choice(masters) if often else self._any_host()

    def _masterships(self) -> list[Mastership]:
        held = [host.mastership for host in self.world.hosts.values()]
        return [m for m in held if m is not None and m.pool == self._pool]

    # -- hosts ------------------------------------------------------------------------------------

    async def _power(self) -> None:
        host = self._some_host()
        host.cut_power()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.05, 0.5, 3.0]))
        self._switch_on(host)

    def _switch_on(self, host: SimHost) -> None:
        host.power_on()

    async def _freeze(self) -> None:
        """A daemon is stopped, as by SIGSTOP."""
        host = self._some_host()
        host.freeze()
        await self.world.clock.sleep(self.dice.choice([0.05, 0.4, 1.5, 5.0]))
        host.thaw()

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

    # -- the network ------------------------------------------------------------------------------

    async def _links(self) -> None:
        """Nothing gets from one host, or client, to another, or neither way."""
        one, other = self._some_host().endpoint, self._any_host().endpoint
        other = self.dice.choice([other, other, *self.clients.names])
        ends = self.dice.choice([(one, other), (other, one)])
        if one != other:
            self.world.network.cut(*ends, one_way=self.dice.random() < 0.5)
            await self.world.clock.sleep(self.dice.choice([0.05, 0.6, 1.5, 5.0]))
            self.world.network.heal(*ends)

    async def _losses(self) -> None:
        self.world.network.losses = self.dice.choice([0.001, 0.01, 0.05])
        await self.world.clock.sleep(self.dice.choice([0.5, 2.0]))
        self.world.network.losses = 0.0

    # -- the store --------------------------------------------------------------------------------

    def _keep(self, host: SimHost, handle: MemoryStore) -> None:
        self._late.append(handle)
        if self.troubled:
            dice = random.Random(f"{self.world.seed} {host.name} {self.world.clock.monotonic()}")
            handle.faults.plan(*(dice.choice(self.fates) for _ in range(500)))

    async def _land_late(self) -> None:
        for handle in self._late:
            while handle.faults.late:
                late = handle.faults.late.pop(0)
                with suppress(LeaseGone):
                    late.land() if self.dice.random() < 0.7 else late.drop()

    # -- what people do ---------------------------------------------------------------------------

    async def _designate(self) -> None:
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(self.dice.choice([0.05, 3.0])):
                await self.world.designate(self._any_host(), self._any_host())

    async def _come_and_go(self, guest: SimHost) -> None:
        """A host is taken in, or ejected."""
        at = self.dice.choice([host for host in self.world.hosts.values() if host is not guest])
        inside = guest.uuid in self.world.members(at)
        command = self.world.eject if inside else self.world.add_host
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(self.dice.choice([0.2, 3.0])):
                await command(at, guest)

    # -- who looks on -----------------------------------------------------------------------------

    async def _watch_masters(self) -> None:
        """No two hosts believe to be master of the same term."""
        while True:
            heads = [m.ledger.head for m in self._masterships()]
            terms = [(head.incarnation.uuid, head.term) for head in heads]
            self.world.rules.expect(len(terms) == len(set(terms)), f"masters of terms {terms}")
            await self.world.clock.sleep(0.02)
