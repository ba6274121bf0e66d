"""What a host does as its pool says of its own etcd: whether to vote, and where the store is.

Only what a master has told counts: a replica that follows nobody may be old.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from poolcore.errors import PoolError
from poolcore.model import PoolId
from poolcore.replica import Head
from poolmaster.layout import read_head
from poolmaster.operations.found_etcd import moving_to
from poolmaster.own_etcd import own_store_url, store_url, voters_of
from poolmaster.store.contract import Store, StoreError
from poolmaster.store.etcd.room import is_for_want_of_room, make_room
from poolmaster.store.etcd.store import EtcdStore
from poolmember.identity import Member
from poolmember.parts import Parts
from poolmember.session import Follower

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
READ_SECONDS = 2.0


async def keep_to_the_voters(parts: Parts, follower: Follower) -> NoReturn:
    """End this host's member of an etcd that the pool does not know, until cancelled."""
    while True:
        state = follower.state
        if state is not None and follower.following is not None:
            try:
                await parts.voter.compare(state)
            except PoolError as error:
                log.error("the etcd here does not do yet as the pool says: %s", error.message)
        await parts.clock.sleep(LOOK_SECONDS)


async def store_in_etcd(parts: Parts, follower: Follower) -> str:
    """Until the chain is known to go on in the pool's own etcd; the URL of the store there.

    A master tells it. One that is lost before that has left the register there, as the last thing
    it did: so a host that votes, or knows who was to, looks for that when it has found no master
    for a moment.
    """
    while (url := told_store(follower)) is None:
        follower.moved.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await follower.moved.wait()
        if follower.following is None and not follower.moved.is_set():
            url = await _found_where_it_was_to_be(parts, follower)
            if url is not None:
                return url
    return url


def told_store(follower: Follower) -> str | None:
    """The URL of the store in the pool's own etcd; none if it is elsewhere, or that is not known.

    Its order is this host's: its own member first.
    """
    state, master = follower.state, follower.following
    if state is None:
        return None
    # What a replica of an earlier incarnation says is no word of the master that is followed.
    told = follower.moved.is_set() if master is None else master.incarnation == state.incarnation
    return own_store_url(state, near=follower.host) if told else None


async def _found_where_it_was_to_be(parts: Parts, follower: Follower) -> str | None:
    found = parts.voter.cluster or _destination(follower)
    if found is None:
        return None
    token, url = found
    head = await register_at(parts, follower.pool, url)
    # Another host is the heir if the chain has left that etcd again.
    if head is None or head.incarnation.uuid != token:
        return None
    # A person may have made a host go on without it, while it has a quorum among the others.
    state = follower.state
    left_behind = state is not None and state.incarnation.counter > head.incarnation.counter
    return None if left_behind else url


async def register_at(
    parts: Parts, pool: PoolId, url: str, *, seconds: float = READ_SECONDS
) -> Head | None:
    """The register of the pool's store in an etcd; none if it is not there, or not read in time."""
    member = Member(pool=pool, pool_name="", addresses=(), store=url)
    try:
        async with asyncio.timeout(seconds):
            store = await parts.files.open_store(member)
            try:
                return await read_head(store)
            finally:
                await store.close()
    except (PoolError, StoreError, TimeoutError) as error:
        log.debug("the pool's store is not at %s: %s", url, error)
        return None


def _destination(follower: Follower) -> tuple[str, str] | None:
    """Token and URL of the etcd that the store was about to move to when the master was lost."""
    state = follower.state
    voters = None if state is None else moving_to(state)
    if state is None or voters is None:
        return None
    return voters.token, store_url(voters_of(state, voters), near=follower.host)


def moved_store(parts: Parts, follower: Follower) -> str | None:
    """The URL, if it is another one than this host has shared so far; it is kept then."""
    identity, url = parts.identity, told_store(follower)
    if url is None or identity.membership is None or url == identity.membership.store:
        return None
    log.info("the pool's store is at %s from now on", url)
    membership = replace(identity.membership, store=url)
    parts.files.write_identity(replace(identity, membership=membership))
    return url


async def relieve(store: Store, follower: Follower, error: StoreError) -> None:
    """Make room in the pool's own etcd, if `error` is for want of it: nobody becomes master before.

    Without an error if that fails too: the next claim tells.
    """
    state = follower.state
    own = state is not None and state.pool.voters is not None
    if not own or not isinstance(store, EtcdStore) or not is_for_want_of_room(error):
        return
    try:
        await make_room(store.cluster)
    except StoreError as failure:
        log.warning("there is no room in the pool's etcd yet: %s", failure)
