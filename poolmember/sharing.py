"""The role of a host that shares its pool's store with others.

As long as the store can be opened it contends for the mastership with them
(`poolmember.contending`). If a person makes one of them go on without the store, the others give
it up and become members of that one.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import NoReturn

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, Incarnation
from poolcore.side_by_side import accompanied
from poolmaster.store import urls
from poolmaster.store.contract import Store, StoreError, StoreFailed, StoreUnavailable
from poolmaster.store.etcd.store import EtcdStore
from poolmember.contending import Contender
from poolmember.following import Directions, sessions
from poolmember.identity import Member, Membership
from poolmember.inheriting import inherit, is_heir
from poolmember.parts import HOLD_SECONDS, LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Change, Parts
from poolmember.returning import LeftBehind, take_log
from poolmember.session import Follower
from poolmember.voting import keep_to_the_voters, moved_store

log = logging.getLogger(__name__)

TOUCH_SECONDS = 0.5
"""How often it is looked whether the pool's own etcd has moved."""
OPEN_SECONDS = 1.5
"""So long a host waits for its store before it does without: etcd takes a second to be opened while
one of its members is down."""


async def contend(parts: Parts, membership: Membership) -> Change:
    """Be master or member of the pool, until the host is ejected."""
    async with parts.following(membership.pool) as follower:
        await follower.load()
        if await is_heir(follower, membership):
            return await inherit(parts, follower)
        while True:
            store = await _opened(parts, membership, follower)
            if isinstance(store, Change):
                return store
            parts.gateway.hold_seconds = HOLD_SECONDS
            membership = parts.identity.membership or membership
            try:
                return await _contend_in(store, parts, membership, follower)
            except LeftBehind as left:
                change = await _come_back(store, membership, follower, left)
                if change is not None:
                    return change
            except StoreFailed as error:
                log.error("the store is opened anew: %s", error)
            finally:
                parts.gateway.hold_seconds = 0.0
                parts.contender = None
                await store.close()
            await parts.clock.sleep(PAUSE_SECONDS)


async def _contend_in(
    store: Store, parts: Parts, membership: Membership, follower: Follower
) -> Change:
    return await accompanied(
        Contender(parts, membership, follower, store).run(),
        _keep_in_touch(store, parts, follower),
        keep_to_the_voters(parts, follower),
    )


async def _keep_in_touch(store: Store, parts: Parts, follower: Follower) -> NoReturn:
    """Follow the pool's own etcd to where it is, as the pool says, and so at the next start."""
    while True:
        await parts.clock.sleep(TOUCH_SECONDS)
        url = moved_store(parts, follower)
        if url is not None and isinstance(store, EtcdStore):
            store.cluster.readdress(urls.etcd_addresses(url))


async def _opened(parts: Parts, membership: Membership, follower: Follower) -> Store | Change:
    """The store; or what this host becomes while it cannot be opened: a person may go on without.

    If that takes long it answers from its replica meanwhile, and follows whoever leads.
    """
    failed = asyncio.Event()
    life = None if follower.state is None else follower.state.incarnation
    opening = asyncio.ensure_future(  # noqa: TID251 - awaited below
        _open_insistently(parts, follower, failed, life)
    )
    following = asyncio.ensure_future(  # noqa: TID251 - awaited below
        _follow_without(parts, membership, follower, failed, life)
    )
    try:
        await asyncio.wait([following, opening], return_when=asyncio.FIRST_COMPLETED)
        return following.result() if following.done() else opening.result()
    finally:
        for task in (following, opening):
            task.cancel()
        await asyncio.gather(following, opening, return_exceptions=True)


async def _open_insistently(
    parts: Parts, follower: Follower, failed: asyncio.Event, life: Incarnation | None
) -> Store:
    while True:
        try:
            return await _open(parts, follower, life)
        except StoreError as error:
            log.error("the store is not open yet: %s", error)
        failed.set()
        await parts.clock.sleep(LONGEST_PAUSE_SECONDS)
        moved_store(parts, follower)


async def _open(parts: Parts, follower: Follower, life: Incarnation | None) -> Store:
    membership = parts.identity.membership
    assert membership is not None  # noqa: S101 - it ends this role
    try:
        return await parts.files.open_store(membership)
    except PoolError as error:
        state, votes = follower.state, parts.voter.cluster is not None
        unmoved = state is None or (state.pool.voters is None and state.incarnation == life)
        # A host that votes may have found the store before its replica has heard of it.
        if unmoved and not votes:
            raise
        # The pool's own etcd: where it was may be another one by now, or that of another life.
        raise StoreUnavailable(error.message) from error


async def _follow_without(
    parts: Parts,
    membership: Membership,
    follower: Follower,
    failed: asyncio.Event,
    life: Incarnation | None,
) -> Change:
    """Follow, until the host is ejected or is of a newer incarnation than `life`, the store's.

    Begins when the store has not opened at the first attempt, or not in time.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(OPEN_SECONDS):
            await failed.wait()
    known = membership.addresses if isinstance(membership, Member) else ()

    async def newer() -> NoReturn:
        while life is None or follower.state is None or follower.state.incarnation == life:
            await parts.clock.sleep(LONGEST_PAUSE_SECONDS)
        raise _OfNewerLife

    try:
        return await accompanied(
            sessions(parts, follower, known, Directions()),
            newer(),
            keep_to_the_voters(parts, follower),
        )
    except _OfNewerLife:
        return _member_without_store(membership, follower)


class _OfNewerLife(Exception):
    """The replica is of a newer incarnation than the store."""


async def _come_back(
    store: Store, membership: Membership, follower: Follower, left: LeftBehind
) -> Change | None:
    """None while the disk refuses what only the store has."""
    log.warning("%s: this host gives the shared store up", left)
    # What the replica lacks of the store is saved apart, if it can still be read.
    try:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LONGEST_PAUSE_SECONDS):
                await take_log(store, follower)
    except PoolError as error:
        if error.reason is not Reason.STATE_UNWRITABLE:
            raise
        log.error("the store is not given up yet: %s", error.message)
        return None
    return _member_without_store(membership, follower, at=left.at.address)


def _member_without_store(
    membership: Membership, follower: Follower, *, at: str | None = None
) -> Change:
    """A member that looks for its master at `at` first, and shares no store with it."""
    state = follower.state
    hosts = [] if state is None else [h for h in state.all(Host) if h.uuid != follower.host]
    known = [] if at is None else [at]
    known += sorted(h.address for h in hosts)
    name = "" if state is None else state.pool.name_label
    addresses = tuple(dict.fromkeys(known))
    return Change(Member(pool=membership.pool, pool_name=name, addresses=addresses))
