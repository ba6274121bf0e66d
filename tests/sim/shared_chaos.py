"""Hosts of one pool that share its store, and every misfortune that makes them elect a master.

For a while masters lose their power, hosts are designated, links between hosts are cut, handles are
cut off from the store or slow, transactions fail, get lost or land late; then everything is healed
and has to settle. Besides the rules of the world: no two hosts are masters of one term, a tag that
was acknowledged is in every later state, and an answer that is marked fresh is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from poolcore.errors import PoolError
from poolcore.model import PoolId
from poolmanager.v1 import pool_service_pb2 as pb
from poolmaster.mastership import Mastership
from poolmaster.store.memory import Fate, MemoryStore
from sim.chaos import NOT_DONE
from sim.host import SimHost
from sim.world import World, play

SHARED = "sqlite:///shared.db"
SECONDS = 10.0
CLIENTS = 3
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
        self.acknowledged: dict[str, int] = {}
        """Tags that were acknowledged, with the revision that they came with."""
        self.refused: set[str] = set()
        """Request ids that were told as not done and never asked again."""
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
            self._links,
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
            playing = [tasks.create_task(self._over_and_over(m)) for m in chosen]
            for number in range(CLIENTS):
                dice = random.Random(f"{world.seed} client {number}")
                playing.append(tasks.create_task(self._client(number, dice)))
            playing.append(tasks.create_task(self._reader()))
            playing.append(tasks.create_task(self._watch_masters()))
            await world.let_pass(SECONDS)
            for task in playing:
                task.cancel()
        self.troubled, self._latency_seconds = False, 0.0005
        for host in world.hosts.values():
            host.cut_power()
        await world.settle()
        self._check_answers()

    @property
    def _pool(self) -> PoolId:
        return self.world.shared[SHARED].pool

    def _check_answers(self) -> None:
        register, expect = self.world.rules.registers[self._pool], self.world.rules.expect
        for tag, since in self.acknowledged.items():
            lacking = [
                r for r, s in register.states.items() if r >= since and tag not in s.pool.tags
            ]
            expect(not lacking, f"{tag} was acknowledged at {since} and is not in {lacking[:3]}")
        for asked in self.refused:
            expect(asked not in register.executed, f"{asked} was told as not done and was done")
        register.check_whole()
        self.world.violations.raise_any()

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

    async def _links(self) -> None:
        one, other = self._some_host(), self._some_host()
        if one is not other:
            self.world.network.cut(one.endpoint, other.endpoint)
            await self.world.clock.sleep(self.dice.choice([0.05, 0.6, 5.0]))
            self.world.network.heal(one.endpoint, other.endpoint)

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

    async def _reader(self) -> None:
        """What is marked fresh shows everything that was acknowledged before it was asked for."""
        dice = random.Random(f"{self.world.seed} reader")
        while True:
            await self.world.clock.sleep(dice.uniform(0.0, 0.1))
            before = max(self.acknowledged.values(), default=0)
            host = dice.choice(self._insiders)
            try:
                async with asyncio.timeout(1.0):
                    answer = await self.world.ask(host, "PoolService/GetPool", pb.GetPoolRequest())
            except (PoolError, TimeoutError):
                continue
            found = answer.freshness
            self.world.rules.expect(
                found.stale or found.revision >= before,
                f"{host.name} answers from {found.revision} as fresh after {before}",
            )

    async def _client(self, number: int, dice: random.Random) -> None:
        """Writes small things at any host, asks again when it has no answer."""
        count = 0
        while True:
            await self.world.clock.sleep(dice.uniform(0.0, 0.3))
            count += 1
            await self._write(f"c{number}w{count}", dice)

    async def _write(self, tag: str, dice: random.Random) -> None:
        asked = self.world.new_request(next(iter(self.world.hosts.values())))
        may_be_done = False
        for _ in range(6):
            host = dice.choice(self._insiders)
            try:
                async with asyncio.timeout(2.0):
                    self.acknowledged[tag] = await self.world.tag(host, tag, asked=asked)
                return
            except TimeoutError:
                may_be_done = True
            except PoolError as error:
                may_be_done |= error.reason not in NOT_DONE
            if not may_be_done and dice.random() < 0.3:
                self.refused.add(asked)
                return
            await self.world.clock.sleep(dice.uniform(0.0, 0.5))


def run(seed: int) -> World:
    """One run; AssertionError when a rule is broken."""

    async def scenario(world: World) -> None:
        await SharedChaos(world).play()

    return play(f"shared chaos {seed}", scenario)
