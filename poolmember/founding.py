"""How a host becomes a pool of one: at its first start, and after it was ejected."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId, Incarnation, Kind, PoolId
from poolmaster.decide.inventory import departed
from poolmaster.decide.masters import founding_record
from poolmaster.layout import read_head
from poolmaster.mastership import found, founding_objects
from poolmaster.store.contract import Store, StoreError, TransactionTooLarge
from poolmember.identity import Own
from poolmember.parts import LONGEST_PAUSE_SECONDS, Change, Parts
from poolmember.session import Follower
from poolmember.state_dir import REPLICA_FILE, STORE_FILE

log = logging.getLogger(__name__)

_MANY = frozenset({Kind.VM, Kind.VBD, Kind.VIF, Kind.VDI})
"""Of these a host may have more than a store takes in one transaction; nothing else names them."""


async def found_pool(parts: Parts, shared: str | None) -> Change:
    """Make this host a pool of one, from what its driver finds on it."""
    facts = await parts.agent.facts()
    # Of a shared file the pool is derived, so that a founding that was cut short is known again.
    identity = parts.identity
    chosen = uuid.uuid4() if shared is None else uuid.uuid5(uuid.UUID(identity.host), shared)
    pool = parts.new_pool(str(chosen))
    objects = founding_objects(facts, pool, now=parts.clock.now())
    return Change(await _found_store(parts, pool.uuid, objects, shared))


async def found_after_eject(parts: Parts, follower: Follower) -> Change:
    """Make this host a pool of one again, with what it takes along from its former pool."""
    host = parts.identity.host
    # What an attempt that a crash cut short has left.
    parts.files.retire(STORE_FILE)
    if follower.state is None or follower.state.get(Host, host) is None:
        change = await found_pool(parts, None)
        return replace(change, retire=(REPLICA_FILE,))
    _, objects = departed(follower.state, host)
    pool = parts.new_pool(str(uuid.uuid4()))
    record = founding_record(pool.uuid, host, now=parts.clock.now())
    membership = await _found_store(parts, pool.uuid, (pool, *objects, record), None)
    parts.reached("host.eject:host-founded")
    return Change(membership, retire=(REPLICA_FILE,))


async def found_insistently(parts: Parts, follower: Follower) -> Change:
    """Found the host's own pool, however long its disk refuses: nobody else can, or will ask."""
    while True:
        try:
            await parts.voter.leave()
            return await found_after_eject(parts, follower)
        except PoolError as error:
            log.error("this host's own pool is not founded yet: %s", error.message)
        await parts.clock.sleep(LONGEST_PAUSE_SECONDS)


async def _found_store(
    parts: Parts, pool: PoolId, objects: tuple[Any, ...], shared: str | None
) -> Own:
    try:
        store, incarnation = await parts.files.found_store(pool, shared)
        try:
            if await read_head(store) is None:
                await _found_in(store, Incarnation(1, incarnation), parts.identity.host, objects)
        finally:
            await store.close()
    except StoreError as error:
        raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
    return Own(pool=pool, incarnation=incarnation, store=shared)


async def _found_in(
    store: Store, incarnation: Incarnation, host: HostId, objects: tuple[Any, ...]
) -> None:
    try:
        await found(store, incarnation, host, objects)
    except TransactionTooLarge:
        # The host's first report brings the rest, in several steps.
        few = tuple(obj for obj in objects if obj.KIND not in _MANY)
        await found(store, incarnation, host, few)
