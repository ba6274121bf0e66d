"""How a host founds the store that the chain goes on in, as the heir of a succession.

The commit that made it the heir is durable in its replica, and nobody else may go on from it. So
this is done however often it is interrupted, and however long the disk refuses.
"""

from __future__ import annotations

import logging

from poolcore.errors import PoolError, Reason
from poolcore.replica import State
from poolmaster.store.contract import StoreError
from poolmaster.succession import found_successor
from poolmember.identity import Membership, Own
from poolmember.parts import LONGEST_PAUSE_SECONDS, Change, Parts
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
        except (PoolError, StoreError) as error:
            log.error("the pool's new store is not founded yet: %s", error)
        await parts.clock.sleep(LONGEST_PAUSE_SECONDS)


async def _found(parts: Parts, follower: Follower, state: State) -> Change:
    incarnation = state.incarnation.uuid
    # Of another membership, or what an attempt that was cut short has left.
    parts.files.retire(STORE_FILE)
    try:
        store, _ = await parts.files.found_store(follower.pool, None, incarnation=incarnation)
        try:
            await found_successor(store, state, follower.store.read_log, follower.host)
        finally:
            await store.close()
    except StoreError as error:
        raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
    log.warning("this host has the pool's store from revision %d on", state.revision)
    parts.reached("pool.succession:founded")
    counter = state.incarnation.counter
    return Change(Own(pool=follower.pool, incarnation=incarnation, counter=counter))
