"""Hosts of one pool that share its store, and every misfortune that makes them elect a master.

Besides what may befall any pool (`sim.misfortunes`), handles are cut off from the store or slow,
one or all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from poolcore.model import PoolId
from poolmaster.store.memory import Fate, MemoryStore
from sim.host import SimHost
from sim.misfortunes import MISHAPS, Misfortune, Misfortunes
from sim.world import World, play

SHARED = "sqlite:///shared.db"
QUICK_SECONDS = 0.0005


class SharedChaos(Misfortunes):
    """One run."""

    seconds = 10.0
    fates = (*[Fate.SERVED] * 60, *MISHAPS, Fate.UNKNOWN_LATE)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._latency_seconds = QUICK_SECONDS
        """Of the store, for everybody."""
        self._handles: dict[str, MemoryStore] = {}

    async def _begin(self) -> Sequence[SimHost]:
        world = self.world
        names = ["phantom", "ignite", "specter", "banshee"][: self.dice.choice([2, 3, 3, 4])]
        first, *others = world.add(*names, founds_in=SHARED)
        (self._guest,) = world.add("guest")
        await world.settle()
        for joining in others:
            await world.join(first, joining)
        await world.settle()
        world.network.slow_seconds = self.dice.choice([0.002, 0.02])
        # A slow store is where claims meet.
        self._set_latency(self.dice.choice([QUICK_SECONDS, QUICK_SECONDS, 0.03, 0.12, 0.2]))
        return [first, *others]

    def _may_happen(self) -> list[Misfortune]:
        return [
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
            partial(self._come_and_go, self._guest),
        ]

    async def _peace(self) -> None:
        for handle in self._handles.values():
            handle.faults.cut_off = False
        self._set_latency(QUICK_SECONDS)
        await super()._peace()

    @property
    def _pool(self) -> PoolId:
        return self.world.shared[SHARED].pool

    def _keep(self, host: SimHost, handle: MemoryStore) -> None:
        super()._keep(host, handle)
        self._handles[host.name] = handle
        handle.faults.latency_seconds = self._latency_seconds

    def _set_latency(self, seconds: float) -> None:
        self._latency_seconds = seconds
        for handle in self._handles.values():
            handle.faults.latency_seconds = seconds

    # -- misfortunes ------------------------------------------------------------------------------

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


def run(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> World:
    """One run; AssertionError when a rule is broken. `plant` may plant a bug."""

    async def scenario(world: World) -> None:
        plant(world)
        await SharedChaos(world).play()

    return play(f"shared chaos {seed}", scenario)
