"""Pools of two hosts whose store is at the master, and what a person does when that is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poolcore.errors import PoolError, Reason
from poolcore.model import HostId
from poolcore.replica import State
from poolcore.wire.chain import decode_delta
from poolmaster.layout import HEAD, LOG
from poolmaster.sessions import RECONNECT_SECONDS
from poolmaster.store.contract import Compare, Store, StoreUnavailable, Write
from sim.host import SimHost
from sim.register import Register
from sim.world import World, is_refused
from support.stores import StoreAround

WRITES = 10


async def pair(world: World) -> tuple[SimHost, SimHost]:
    """Two hosts, the first of them master, the second in step."""
    phantom, ignite = world.add("phantom", "ignite")
    await world.settle()
    await world.join(phantom, ignite)
    await world.until(lambda: in_step_with(phantom) == ignite.uuid)
    # At the beginning of a mastership hosts have some time to come.
    await world.let_pass(RECONNECT_SECONDS)
    return phantom, ignite


def register_of(world: World, host: SimHost) -> Register:
    """The register of the pool that a host is of."""
    register = world.rules.register_of(host)
    assert register is not None
    return register


def state_of(world: World, host: SimHost) -> State:
    return register_of(world, host).state


def masters(world: World) -> list[SimHost]:
    """The hosts that have a mastership."""
    return [host for host in world.hosts.values() if host.mastership is not None]


def in_step_with(master: SimHost) -> HostId | None:
    """The host that has confirmed to a master that it is in step."""
    return None if master.mastership is None else master.mastership.state.pool.in_step


async def tell_to_lead(world: World, host: SimHost) -> bool:
    """What a person does when the other host is off: one command. Whether it was done."""
    try:
        await world.emergency(host)
    except PoolError as error:
        # It hears a master after all, or is one.
        if is_refused(error, Reason.ALREADY_MASTER, Reason.MASTER_LIVES, Reason.NO_MASTER):
            return False
        raise
    return True


async def written(world: World, at: SimHost, *, count: int = WRITES) -> dict[str, int]:
    """Tags that were acknowledged, with their revisions."""
    return {tag: await world.tag(at, tag) for tag in (f"tag{n}" for n in range(count))}


def check_kept(world: World, host: SimHost, acknowledged: dict[str, int]) -> None:
    tags = state_of(world, host).pool.tags
    world.rules.expect(acknowledged.keys() <= tags, f"of {acknowledged} only {tags} are there")
    world.violations.raise_any()


class NotFoundedAtOnce(StoreAround):
    """A store that cannot be begun as long as there is something in `refusals`."""

    def __init__(self, inner: Store, refusals: list[str]) -> None:
        super().__init__(inner)
        self._refusals = refusals

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        begins = Compare(HEAD, None) in compares and any(w.key == HEAD for w in writes)
        if begins and self._refusals:
            raise StoreUnavailable(self._refusals.pop())
        return await super().transact(compares, writes)


class BeforeLastCommit(StoreAround):
    """A store; what is in `happens` is done, once each, before the commit that hands it over."""

    def __init__(self, inner: Store, happens: list[Callable[[], None]]) -> None:
        super().__init__(inner)
        self._happens = happens

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        logged = (w.value for w in writes if w.key.startswith(LOG) and w.value is not None)
        ends = any(decode_delta(value).succession is not None for value in logged)
        if ends and any(write.key == HEAD for write in writes):
            while self._happens:
                self._happens.pop()()
        return await super().transact(compares, writes)
