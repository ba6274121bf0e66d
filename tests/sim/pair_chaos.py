"""Two hosts whose store is at the master, every misfortune, and a person who makes one lead.

For a while hosts lose their power or are stopped, the master ends and hands over first, hosts are
designated, links are cut in one direction or in both, messages are lost, clocks jump, disks are
full or fail, transactions fail, get lost or land late; sometimes a third host comes and goes. When
the master is off and the other host was in step by the chain's own record, a person may make that
one the master with the one command, and the old one comes back later. Then everything is healed
and has to settle. Besides the rules of the world: no two masters of one term of one incarnation,
and what clients are promised holds (`sim.clients`) whoever was lost: what was acknowledged, and
what was shown as fresh, is in every later state.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from poolcore.errors import PoolError, Reason
from poolcore.model import HostId, PoolId
from poolcore.replica import State
from poolcore.wire.chain import decode_delta
from poolmaster.store.memory import Fate, MemoryStore
from poolmember.standing import hand_over
from sim.clients import Clients
from sim.host import SimHost
from sim.pairs import pair, tell_to_lead
from sim.world import World, is_refused, play

SECONDS = 12.0
CALM_SECONDS = 3.0
WRITERS = 3
FATES = [
    *[Fate.SERVED] * 40,
    Fate.REFUSED,
    Fate.UNKNOWN_APPLIED,
    Fate.UNKNOWN_LOST,
    Fate.UNKNOWN_LATE,
    Fate.COMMIT_FAILED_APPLIED,
    Fate.COMMIT_FAILED_LOST,
]
NOT_NOW = (
    Reason.NO_HOST_ANSWERS,
    Reason.OUTCOME_UNKNOWN,
    Reason.REPLICA_MISSING,
    Reason.STATE_UNWRITABLE,
    Reason.STORE_UNAVAILABLE,
    Reason.REPLICA_BEHIND,
)
"""What keeps the one command from being done although it is the right one."""


class PairChaos:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice
        self.troubled = False
        self._late: list[MemoryStore] = []
        self._kept_off: set[str] = set()
        """Hosts that a person keeps switched off."""
        self._deciding = 0
        """How many people are about to make a host the master."""
        self._pool: PoolId
        world.on_handle = self._keep

    async def play(self) -> None:
        """Make trouble, then peace."""
        world = self.world
        both = await pair(world)
        membership = both[0].membership
        assert membership is not None
        self._pool = membership.pool
        with_guest = self.dice.random() < 0.4
        self._guest = world.add("guest")[0] if with_guest else None
        await world.settle()
        world.network.slow_seconds = self.dice.choice([0.002, 0.02, 0.05])
        misfortunes: list[Callable[[], Awaitable[None]]] = [
            self._power,
            self._master_lost,
            self._master_lost,
            self._end,
            self._freeze,
            self._links,
            self._losses,
            self._clocks,
            self._disks,
            self._designate,
            self._designate,
            self._land_late,
        ]
        if with_guest:
            misfortunes.append(self._come_and_go)
        # Not everything at once in every run: what one misfortune ends another cannot meet.
        chosen = [misfortune for misfortune in misfortunes if self.dice.random() < 0.5]
        self.troubled = self.dice.random() < 0.5
        async with asyncio.TaskGroup() as tasks:
            self.clients = clients = Clients(world, self._pool, both, short_history=True)
            acting, looking = clients.start(tasks, writers=WRITERS)
            acting += [tasks.create_task(self._over_and_over(m)) for m in chosen]
            acting.append(tasks.create_task(self._watch_masters()))
            await world.let_pass(SECONDS)
            # A command is not given halfway.
            await world.until(lambda: not self._deciding, seconds=60.0)
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
        if self.troubled or self.dice.random() < 0.5:
            self.troubled = False
            for host in self.world.hosts.values():
                host.cut_power()
        else:
            self.world.calm()
            await self.world.let_pass(CALM_SECONDS)

    # -- misfortunes ------------------------------------------------------------------------------

    def _keep(self, host: SimHost, handle: MemoryStore) -> None:
        self._late.append(handle)
        if self.troubled:
            dice = random.Random(f"{self.world.seed} {host.name} {self.world.clock.monotonic()}")
            handle.faults.plan(*(dice.choice(FATES) for _ in range(500)))

    async def _over_and_over(self, misfortune: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.world.clock.sleep(self.dice.uniform(0.1, 2.0))
            await misfortune()

    def _any_host(self) -> SimHost:
        return self.dice.choice(list(self.world.hosts.values()))

    def _some_host(self) -> SimHost:
        """Most often one that is master."""
        masters = [h for h in self.world.hosts.values() if h.mastership is not None]
        return (
            self.dice.choice(masters)
            if masters and self.dice.random() < 0.7
            else (self._any_host())
        )

    async def _power(self) -> None:
        host = self._some_host()
        host.cut_power()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.05, 0.5, 3.0]))
        self._switch_on(host)

    async def _master_lost(self) -> None:
        """The host with the store is off, perhaps all of them are; a person may see to it."""
        lost = self._with_the_store()
        if lost is None or self._kept_off:
            return
        lost.cut_power()
        self._kept_off.add(lost.name)
        heir = self._in_step()
        if heir is not None and heir is not lost:
            if self.dice.random() < 0.3:
                heir.cut_power()
            await self.world.clock.sleep(self.dice.choice([0.0, 0.1, 1.0, 4.0]))
            self._switch_on(heir)
            if self.dice.random() < 0.8:
                await self._tell(heir)
        await self.world.clock.sleep(self.dice.choice([0.0, 0.3, 2.0]))
        self._kept_off.discard(lost.name)
        lost.power_on()

    def _switch_on(self, host: SimHost) -> None:
        if host.name not in self._kept_off:
            host.power_on()

    async def _tell(self, heir: SimHost) -> None:
        self._deciding += 1
        try:
            await tell_to_lead(self.world, heir)
        except PoolError as error:
            self.world.rules.expect(
                is_refused(error, *NOT_NOW), f"{heir.name} is not made master: {error.message}"
            )
        finally:
            self._deciding -= 1

    def _with_the_store(self) -> SimHost | None:
        """The host that has the pool's newest store."""
        data = self.world.rules.registers[self._pool].data
        hosts = self.world.hosts.values()
        return next((h for h in hosts if h.disk.store and h.disk.store.data is data), None)

    def _in_step(self) -> SimHost | None:
        """The host that has everything that was acknowledged, by the chain's own record."""
        register = self.world.rules.registers[self._pool]
        state: State = register.state
        if state.revision in register.raw:
            # A store's last commit names who comes next; who was in step stands before it.
            last = decode_delta(register.raw[state.revision])
            if last.succession is not None:
                state = register.states.get(state.revision - 1, state)
        uuid: HostId | None = state.pool.in_step
        host = next((h for h in self.world.hosts.values() if h.uuid == uuid), None)
        replica = None if host is None or host.disk.replica is None else host.disk.replica.state
        # It may not have heard yet that it is to be in step.
        return host if replica is not None and replica.pool.in_step == uuid else None

    async def _end(self) -> None:
        """A daemon is told to end, as by SIGTERM; it has not long."""
        host = self._some_host()
        life = host.life
        if life is None:
            return
        ending = life.begin(hand_over(life.parts))
        await asyncio.wait([ending], timeout=self.dice.choice([0.05, 5.0, 5.0]))
        if host.life is life:
            host.cut_power()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.5, 3.0]))
        self._switch_on(host)

    async def _freeze(self) -> None:
        """A daemon is stopped, as by SIGSTOP."""
        host = self._some_host()
        host.freeze()
        await self.world.clock.sleep(self.dice.choice([0.05, 0.4, 1.5, 5.0]))
        host.thaw()

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

    async def _clocks(self) -> None:
        """A host's time of day jumps, and later back."""
        clock = self._some_host().clock
        clock.ahead = timedelta(hours=self.dice.choice([-1, 1]))
        await self.world.clock.sleep(self.dice.choice([0.3, 3.0]))
        clock.ahead = timedelta()

    async def _disks(self) -> None:
        """A disk is full for a while, or fails to say that what it was given is safe."""
        disk = self._any_host().disk
        disk.failed_syncs = self.dice.choice([0, 1, 3])
        disk.full = not disk.failed_syncs
        await self.world.clock.sleep(self.dice.choice([0.3, 2.0]))
        disk.full = False

    async def _designate(self) -> None:
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(self.dice.choice([0.05, 3.0])):
                await self.world.designate(self._any_host(), self._any_host())

    async def _come_and_go(self) -> None:
        """A third host is taken in, or ejected."""
        guest = self._guest
        assert guest is not None
        at = self.dice.choice([host for host in self.world.hosts.values() if host is not guest])
        inside = guest.uuid in self.world.members(at)
        command = self.world.eject if inside else self.world.add_host
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(self.dice.choice([0.2, 3.0])):
                await command(at, guest)

    async def _land_late(self) -> None:
        for handle in self._late:
            while handle.faults.late:
                late = handle.faults.late.pop(0)
                late.land() if self.dice.random() < 0.7 else late.drop()

    # -- who looks on -----------------------------------------------------------------------------

    async def _watch_masters(self) -> None:
        """No two hosts believe to be master of the same term."""
        while True:
            found = [h.mastership for h in self.world.hosts.values() if h.mastership is not None]
            heads = [m.ledger.head for m in found if m.pool == self._pool]
            terms = [(head.incarnation.uuid, head.term) for head in heads]
            self.world.rules.expect(len(terms) == len(set(terms)), f"masters of terms {terms}")
            await self.world.clock.sleep(0.02)


def run(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> World:
    """One run; AssertionError when a rule is broken. `plant` may plant a bug."""

    async def scenario(world: World) -> None:
        plant(world)
        await PairChaos(world).play()

    return play(f"pair chaos {seed}", scenario)
