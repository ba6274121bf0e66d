"""How the host of a store that has ended goes on in the pool's own etcd.

The store's last commit made this very host the heir, and names the voters. Nobody else may go on
from there, so this is done however often it is interrupted, and however long the etcd has no
quorum. If a person makes another host go on instead, this one becomes a member of that.
"""

from __future__ import annotations

import logging

from poolcore.errors import PoolError
from poolcore.model import Host
from poolcore.replica import DeltaDoesNotFollow, Head, State
from poolmaster.layout import read_head
from poolmaster.own_etcd import own_store_url
from poolmaster.store.contract import Store, StoreError, StoreFailed
from poolmaster.succession import found_successor
from poolmember.identity import Member, Own
from poolmember.parts import PAUSE_SECONDS, Change, Parts
from poolmember.returning import before_inheriting, take_log, while_inheriting
from poolmember.session import Follower
from poolmember.state_dir import STORE_FILE

log = logging.getLogger(__name__)


async def move(
    parts: Parts, own: Own, store: Store, head: Head, follower: Follower, *, was_down: bool
) -> Change:
    """Found the store in the pool's etcd from the one that has ended with `head`.

    `was_down`: whether it ended in an earlier life of this daemon. Then the other hosts are asked
    first. Raises `LeftBehind` if the pool has gone on without this host.
    """
    await take_log(store, follower, up_to=head.revision)
    state = follower.state
    if state is None or state.revision != head.revision:
        raise StoreFailed(f"the replica does not lead to revision {head.revision}")
    url = own_store_url(state, near=follower.host)
    if url is None:
        raise StoreFailed("the store's last commit names no voters")
    parts.reached("pool.succession:ended")
    if was_down:
        await before_inheriting(parts, follower, ())
    problem = "the pool's store moves into its etcd"
    parts.gateway.serve_locally(parts.answer_from_replica(follower, lambda: problem))
    parts.on_role(f"moving the store of pool {state.pool.name_label} into its etcd")
    while True:
        try:
            await _found(parts, follower, state, url)
            break
        except (PoolError, StoreError, DeltaDoesNotFollow) as error:
            log.warning("the pool's store is not in its etcd yet: %s", error)
        await parts.clock.sleep(PAUSE_SECONDS)
        # Before the next attempt: some of the voters may be of what went on by now.
        await while_inheriting(parts, follower, state)
    parts.reached("pool.succession:founded")
    hosts = sorted(h.address for h in state.all(Host) if h.uuid != follower.host)
    member = Member(
        pool=own.pool, pool_name=state.pool.name_label, addresses=tuple(hosts), store=url
    )
    return Change(member, retire=(STORE_FILE,))


async def _found(parts: Parts, follower: Follower, state: State, url: str) -> None:
    incarnation, kept = state.incarnation.uuid, follower.store.read_log
    prepared, parts.prepared = parts.prepared, None
    if prepared is not None and prepared.incarnation == incarnation:
        try:
            await found_successor(prepared.store, state, kept, follower.host, begun=prepared.begun)
        finally:
            await prepared.store.close()
        return
    store, _ = await parts.files.found_store(follower.pool, url, incarnation=incarnation)
    try:
        # An earlier attempt may have come that far.
        if await read_head(store) is None:
            await found_successor(store, state, kept, follower.host)
    finally:
        await store.close()
