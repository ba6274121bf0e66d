"""The compare in a claim taken away: the rules notice.

As in `test_planted_bugs.py` the bugs are here and nowhere else, and the same runs break no rule
with the product's own claims. What is played is where claims meet: nobody reaches the store until
the master's `alive` key has expired, and when it is back it is slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from poolmaster.layout import ALIVE, HEAD, LOG
from poolmaster.store.contract import Compare, Store, Write
from poolmaster.store.memory import MemoryStore
from sim.clients import Clients
from sim.test_elections import SHARED, trio
from sim.world import World, play
from support.stores import StoreAround

SEEDS = range(1, 9)
OUTAGES = 3


def is_claim(writes: Sequence[Write]) -> bool:
    """Whether a transaction moves `head` to another term: it commits nothing."""
    keys = [write.key for write in writes]
    return HEAD in keys and not any(key.startswith(LOG) for key in keys)


def without_head(compares: Sequence[Compare]) -> list[Compare]:
    return [compare for compare in compares if compare.key != HEAD]


class SwapsWithoutCompare(StoreAround):
    """Whoever claims is master, whatever became of `head` since it was read."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if is_claim(writes):
            compares = without_head(compares)
        return await super().transact(compares, writes)


class TakesTheLeaseForTheFence(StoreAround):
    """Whoever finds that the master's `alive` key has expired may overwrite `head`."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if is_claim(writes) and not (await self.inner.read(ALIVE)).items:
            compares = without_head(compares)
        return await super().transact(compares, writes)


def rivalry(seed: int, *, around: Callable[[Store], Store] = lambda store: store) -> None:
    """All hosts may claim at the same time, and their claims take long."""

    async def scenario(world: World) -> None:
        handles: list[MemoryStore] = []
        world.around = around
        world.on_handle = lambda _, handle: handles.append(handle)
        hosts = await trio(world)
        clients = Clients(world, world.shared[SHARED].pool, hosts)
        async with asyncio.TaskGroup() as tasks:
            acting, looking = clients.start(tasks, writers=1)
            for _ in range(OUTAGES):
                for handle in handles:
                    handle.faults.cut_off = True
                await world.let_pass(6.0 + world.dice.uniform(0.0, 1.0))
                for handle in handles:
                    handle.faults.latency_seconds = world.dice.uniform(0.05, 0.2)
                    handle.faults.cut_off = False
                await world.let_pass(4.0)
            for task in (*acting, *looking):
                task.cancel()
        clients.check()

    play(f"rivalry {seed}", scenario)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_without_a_bug_no_rule_is_broken(seed: int) -> None:
    rivalry(seed)


@pytest.mark.parametrize("bug", [SwapsWithoutCompare, TakesTheLeaseForTheFence])
def test_a_planted_bug_breaks_a_rule(bug: type[StoreAround]) -> None:
    for seed in SEEDS:
        try:
            rivalry(seed, around=bug)
        except AssertionError:
            return
    pytest.fail(f"nobody noticed {bug.__name__} in {len(SEEDS)} runs")
