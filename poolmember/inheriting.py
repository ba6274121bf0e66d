"""How a host founds the store that the chain goes on in, as the heir of a succession.

The commit that made it the heir is durable in its replica, and nobody else may go on from it. So
this is done however often it is interrupted, and however long the disk refuses.
"""

from __future__ import annotations

import logging

from poolcore.errors import PoolError, Reason
from poolcore.model import PoolId
from poolcore.replica import DeltaDoesNotFollow, State
from poolmaster.store.contract import Store, StoreError, StoreFailed
from poolmaster.succession import found_successor, prepare_successor
from poolmember.identity import Member, Membership, Own
from poolmember.parts import LONGEST_PAUSE_SECONDS, Change, Parts, Prepared
from poolmember.session import Follower
from poolmember.state_dir import STORE_FILE

log = logging.getLogger(__name__)


async def is_heir(follower: Follower, membership: Membership | None) -> bool:
    """Whether this host is to found a store that its membership does not name yet."""
    found = await follower.inherits()
    if found is None:
        return False
    present = membership.incarnation if isinstance(membership, Own) else None
    return found.incarnation.uuid != present


async def inherit(parts: Parts, follower: Follower) -> Change:
    """Found the store, and be the host that has it."""
    while True:
        try:
            await follower.load()
            state = follower.state
            if state is None:
                raise RuntimeError("an heir without a replica")
            return await _found(parts, follower, state)
        except (PoolError, StoreError, DeltaDoesNotFollow) as error:
            # What was prepared may not lead there, if a snapshot has come since: the next attempt
            # begins with an empty store.
            log.error("the pool's new store is not founded yet: %s", error)
        await parts.clock.sleep(LONGEST_PAUSE_SECONDS)


async def _found(parts: Parts, follower: Follower, state: State) -> Change:
    incarnation, prepared = state.incarnation, parts.prepared
    parts.prepared = None
    if prepared is not None and prepared.incarnation != incarnation.uuid:
        await prepared.store.close()
        prepared = None
    try:
        if prepared is None:
            store, begun = await _empty_store(parts, follower, incarnation.uuid), None
        else:
            store, begun = prepared.store, prepared.begun
        try:
            kept = follower.store.read_log
            await found_successor(store, state, kept, follower.host, begun=begun)
        finally:
            await store.close()
    except StoreError as error:
        raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
    log.warning("this host has the pool's store from revision %d on", state.revision)
    parts.reached("pool.succession:founded")
    return Change(
        Own(pool=follower.pool, incarnation=incarnation.uuid, counter=incarnation.counter)
    )


async def _empty_store(parts: Parts, follower: Follower, incarnation: str) -> Store:
    # Of another membership, or what an attempt that was cut short has left.
    parts.files.retire(STORE_FILE)
    store, _ = await parts.files.found_store(follower.pool, None, incarnation=incarnation)
    return store


async def _shared_store(parts: Parts, pool: PoolId, shared: str, incarnation: str) -> Store:
    store, found = await parts.files.found_store(pool, shared, incarnation=incarnation)
    if found != incarnation:
        await store.close()
        raise StoreFailed(f"there is a store of incarnation {found}")
    return store


async def prepare(parts: Parts, pool: str, incarnation: str, shared: str | None = None) -> None:
    """Put what the replica has into a store of `incarnation`, before this host may be the heir.

    It saves what else would be done while everybody's writes wait. If nothing comes of it, the
    store is put aside with the next one. `shared`: the URL of a store that hosts share; that is
    asked of the very master whose store is to go on there.
    """
    follower, membership = parts.follower, parts.identity.membership
    state = None if follower is None else follower.state
    if membership is None or membership.pool != pool or follower is None or state is None:
        raise PoolError(Reason.HOST_NOT_IN_POOL, host=parts.identity.name, pool=pool)
    leads = parts.mastership is not None
    asked_rightly = leads if shared or membership.store else isinstance(membership, Member)
    if not asked_rightly:
        problem = "it is not a member whose master has the store"
        raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=parts.identity.name, problem=problem)
    async with parts.preparing:
        if follower.leaving:
            raise PoolError(Reason.HOST_NOT_IN_POOL, host=parts.identity.name, pool=pool)
        earlier, parts.prepared = parts.prepared, None
        if earlier is not None:
            await earlier.store.close()
        try:
            if shared is None:
                store = await _empty_store(parts, follower, incarnation)
            else:
                store = await _shared_store(parts, follower.pool, shared, incarnation)
            try:
                begun = await prepare_successor(store, state, follower.store.read_log)
            except BaseException:
                await store.close()
                raise
        except StoreError as error:
            raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
        parts.prepared = Prepared(incarnation, store, begun)
