"""Hosts of two pools, clients and misfortunes, all drawn from one seed.

For a while hosts join, are ejected, change, are stopped, lose their power and come back, links are
cut, messages are lost, stores refuse, answer nothing or fail; then everything is healed and has to
settle. What a client was told is checked in the end: what was acknowledged is in the chain, what
was refused as not done is not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from poolcore.errors import PoolError, Reason
from poolcore.model import REPORTED_POWER_STATES
from poolmaster.store.memory import Fate, MemoryStore
from poolmember.drivers.sim_host import SimNetwork, SimVm
from poolmember.identity import Own
from sim.host import SimHost
from sim.world import World, play

SECONDS = 6.0
CLIENTS = 3
NOT_DONE = {
    Reason.STORE_UNAVAILABLE,
    Reason.NO_MASTER,
    Reason.POOL_RESERVED,
    Reason.HOST_IS_SLAVE,
}
FATES = [
    *[Fate.SERVED] * 30,
    Fate.REFUSED,
    Fate.UNKNOWN_APPLIED,
    Fate.UNKNOWN_LOST,
    Fate.UNKNOWN_LATE,
    Fate.COMMIT_FAILED_APPLIED,
    Fate.COMMIT_FAILED_LOST,
]


class Chaos:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice
        self.acknowledged: dict[str, str] = {}
        """Request ids that were acknowledged, with the pool that did."""
        self.refused: dict[str, str] = {}
        """Request ids that were told as not done and never asked again, with the pool."""
        self.troubled = False
        world.on_handle = self._trouble

    async def play(self) -> None:
        """Make trouble, then peace."""
        world = self.world
        phantom, specter, *_ = world.add("phantom", "specter", "ignite", "banshee")
        await world.settle()
        world.network.slow_seconds = self.dice.choice([0.005, 0.02, 0.1])
        # Not everything at once in every run: what one misfortune ends another cannot meet.
        misfortunes: list[Callable[[], Awaitable[None]]] = [
            self._power,
            self._power,
            self._links,
            self._links,
            self._hypervisors,
            self._freeze,
            self._losses,
        ]
        chosen = [misfortune for misfortune in misfortunes if self.dice.random() < 0.5]
        self.troubled = self.dice.random() < 0.5
        async with asyncio.TaskGroup() as tasks:
            playing = [tasks.create_task(self._over_and_over(m)) for m in chosen]
            for pool in (phantom, specter):
                dice = random.Random(f"{world.seed} administrator of {pool.name}")
                playing.append(tasks.create_task(self._administrator(pool, dice)))
            for number in range(CLIENTS):
                dice = random.Random(f"{world.seed} client {number}")
                playing.append(tasks.create_task(self._client(number, dice)))
            await world.let_pass(SECONDS)
            for task in playing:
                task.cancel()
        self.troubled = False
        self._peace()
        await world.settle()
        self._check_answers()

    def _peace(self) -> None:
        for host in self.world.hosts.values():
            host.cut_power()
            host.hypervisor.fails = False

    def _check_answers(self) -> None:
        executed = {
            pool: register.executed for pool, register in self.world.rules.registers.items()
        }
        for asked, pool in self.acknowledged.items():
            holds = asked in executed[pool]  # type: ignore[index]
            self.world.rules.expect(holds, f"{asked} was acknowledged and is not in the chain")
        for asked, pool in self.refused.items():
            holds = asked not in executed[pool]  # type: ignore[index]
            self.world.rules.expect(holds, f"{asked} was told as not done and is in the chain")
        self.world.violations.raise_any()

    # -- misfortunes ------------------------------------------------------------------------------

    def _trouble(self, host: SimHost, handle: MemoryStore) -> None:
        if self.troubled:
            dice = random.Random(f"{self.world.seed} {host.name} {self.world.clock.monotonic()}")
            handle.faults.plan(*(dice.choice(FATES) for _ in range(200)))

    async def _over_and_over(self, misfortune: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.world.clock.sleep(self.dice.uniform(0.1, 1.5))
            await misfortune()

    def _any_host(self) -> SimHost:
        return self.dice.choice(list(self.world.hosts.values()))

    async def _power(self) -> None:
        host = self._any_host()
        host.cut_power()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.0, 0.05, 0.5, 3.0]))
        host.power_on()

    async def _links(self) -> None:
        one, other = self._any_host(), self._any_host()
        if one is not other:
            one_way = self.dice.random() < 0.3
            self.world.network.cut(one.endpoint, other.endpoint, one_way=one_way)
            await self.world.clock.sleep(self.dice.choice([0.05, 0.5, 5.0]))
            self.world.network.heal(one.endpoint, other.endpoint)

    async def _freeze(self) -> None:
        host = self._any_host()
        host.freeze()
        await self.world.clock.sleep(self.dice.choice([0.05, 0.5, 4.0]))
        host.thaw()

    async def _losses(self) -> None:
        self.world.network.losses = self.dice.choice([0.001, 0.01, 0.05])
        await self.world.clock.sleep(self.dice.choice([0.5, 2.0]))
        self.world.network.losses = 0.0

    async def _hypervisors(self) -> None:
        host = self._any_host()
        description = host.hypervisor.description
        vm = SimVm(name="web", power_state=self.dice.choice(REPORTED_POWER_STATES))
        network = SimNetwork(name="storage", bridge="xapi1")
        host.hypervisor.describe(
            replace(
                description,
                vms=() if description.vms or self.dice.random() < 0.7 else (vm,),
                networks=() if description.networks or self.dice.random() < 0.7 else (network,),
            )
        )
        host.hypervisor.fails = self.dice.random() < 0.1

    # -- people -----------------------------------------------------------------------------------

    async def _administrator(self, pool: SimHost, dice: random.Random) -> None:
        """Takes hosts in and lets them go, at one master; may go away, or change their mind."""
        while True:
            await self.world.clock.sleep(dice.uniform(0.0, 0.4))
            *masters, ignite, banshee = self.world.hosts.values()
            rival = next(master for master in masters if master is not pool)
            other = dice.choice([*[ignite, banshee] * 3, rival])
            inside = (other.uuid in self.world.members(pool)) != (dice.random() < 0.05)
            command = self.world.eject if inside else self.world.add_host
            asked = self.world.new_request(pool)
            for _ in range(dice.choice([1, 1, 2, 3])):
                try:
                    async with asyncio.timeout(dice.choice([0.02, 0.2, 3.0, 3.0, 3.0])):
                        task = await command(pool, other, asked=asked)
                        if dice.random() < 0.15:
                            await self.world.clock.sleep(dice.uniform(0.0, 0.1))
                            await self.world.cancel(pool, task)
                except (PoolError, TimeoutError):
                    await self.world.clock.sleep(dice.uniform(0.0, 0.5))

    async def _client(self, number: int, dice: random.Random) -> None:
        """Writes small things, asks again when it has no answer, believes what it is told."""
        count = 0
        while True:
            await self.world.clock.sleep(dice.uniform(0.0, 0.2))
            count += 1
            host = dice.choice(list(self.world.hosts.values()))
            register = self.world.rules.own_register(host)
            if register is None or not isinstance(host.membership, Own):
                continue
            pool = host.membership.pool
            await self._write(host, pool, f"c{number}w{count}", dice)

    async def _write(self, host: SimHost, pool: str, tag: str, dice: random.Random) -> None:
        asked, may_be_done = self.world.new_request(host), False
        for _ in range(4):
            try:
                async with asyncio.timeout(2.0):
                    await self.world.tag(host, tag, asked=asked)
            except TimeoutError:
                may_be_done = True
            except PoolError as error:
                may_be_done |= error.reason not in NOT_DONE
            else:
                if isinstance(host.membership, Own) and host.membership.pool == pool:
                    self.acknowledged[asked] = pool
                return
            if not may_be_done and dice.random() < 0.3:
                self.refused[asked] = pool
                return
            await self.world.clock.sleep(dice.uniform(0.0, 0.5))


def run(seed: int) -> World:
    """One run; AssertionError when a rule is broken."""

    async def scenario(world: World) -> None:
        await Chaos(world).play()

    return play(f"chaos {seed}", scenario)
