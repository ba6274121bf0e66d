"""The role of a host that is the master of its pool."""

from __future__ import annotations

import asyncio
import gc
import logging

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession
from poolcore.replica import DeltaDoesNotFollow, Head
from poolcore.side_by_side import side_by_side
from poolcore.wire.codec import MalformedMessage
from poolmaster.claiming import Claimed, claim
from poolmaster.layout import read_head
from poolmaster.ledger import SteppedDown
from poolmaster.mastership import Mastership
from poolmaster.service.api import master_handlers
from poolmaster.store.contract import Store, StoreError, StoreFailed
from poolmaster.succession import read_succession, succeeded
from poolmember.ceding import Ceding
from poolmember.identity import Member, Own
from poolmember.inheriting import is_heir
from poolmember.moving import move
from poolmember.own_session import OwnSession
from poolmember.parts import HOLD_SECONDS, LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Change, Parts
from poolmember.returning import LeftBehind, before_leading, come_back, while_leading
from poolmember.session import Follower
from poolmember.state_dir import STORE_FILE
from poolmember.voting import keep_to_the_voters

log = logging.getLogger(__name__)

COLLECT_SECONDS = 1.0
"""So long after a mastership began or ended its garbage is collected: meanwhile callers wait."""


async def lead(parts: Parts, own: Own) -> Change:
    """Be the master of the pool whose store this host has, over and over.

    Each mastership begins from the store. Ends when the store has a successor elsewhere.
    """
    parts.gateway.hold_seconds = HOLD_SECONDS
    async with parts.following(own.pool) as follower:
        if await is_heir(follower, own):
            # A person has made this host go on from its replica, without the store that it had.
            return Change(Member(pool=own.pool, pool_name="", addresses=()), retire=(STORE_FILE,))
        pause = PAUSE_SECONDS
        while True:
            store: Store | None = None
            began = parts.clock.monotonic()
            try:
                store = await parts.files.open_store(own)
                change = await _with(parts, own, store, follower)
                if change is not None:
                    return change
            except (SteppedDown, StoreError) as error:
                log.error("the mastership has ended: %s", error)
            except PoolError as error:
                # Of the replica, which has to have what the store has before that goes.
                if error.reason is not Reason.STATE_UNWRITABLE:
                    raise
                log.error("the store is not given up yet: %s", error.message)
            finally:
                if store is not None:
                    await store.close()
            if parts.clock.monotonic() - began > LONGEST_PAUSE_SECONDS:
                pause = PAUSE_SECONDS
            await parts.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _with(parts: Parts, own: Own, store: Store, follower: Follower) -> Change | None:
    """Lead as long as the store has no successor; what this host becomes when it has one.

    None: the successor was withdrawn. Raises what ends a mastership otherwise.
    """
    was_down = True
    try:
        head = await read_head(store)
        if head is not None and not succeeded(head, own.incarnation):
            await before_leading(parts, own, store, follower)
            was_down = False
            await _lead_once(parts, own, store, follower, head)
    except LeftBehind as left:
        return await come_back(store, own, follower, left)
    except SteppedDown as error:
        head = await read_head(store)
        if head is None or not succeeded(head, own.incarnation):
            raise
        log.info("the mastership is handed over: %s", error)
    if head is None:
        raise StoreFailed("the store holds no pool")
    if head.master == follower.host:
        try:
            return await move(parts, own, store, head, follower, was_down=was_down)
        except LeftBehind as left:
            return await come_back(store, own, follower, left)
    return await Ceding(parts, own, store, head, follower).settle()


async def _lead_once(parts: Parts, own: Own, store: Store, follower: Follower, head: Head) -> None:
    succession = await read_succession(store)
    # An heir has the state in memory; after a restart it is read from the store. A last commit of
    # the mastership before, whose outcome was not known, must not have landed since.
    claimed = await claim(store, parts.identity.host, of=head, replica=follower.recalled())
    await side_by_side(
        one_mastership(
            parts,
            store,
            claimed,
            follower,
            why=Accession.RESTARTED if succession is None else succession.why,
        ),
        while_leading(parts, own),
        keep_to_the_voters(parts, follower),
    )


async def one_mastership(
    parts: Parts,
    store: Store,
    claimed: Claimed,
    follower: Follower,
    *,
    why: Accession = Accession.RESTARTED,
    shared: str | None = None,
) -> None:
    """Lead until that ends, by `SteppedDown`; `shared` is the URL of a store that others share."""
    loop = asyncio.get_running_loop()
    freezing = loop.call_later(COLLECT_SECONDS, _collect_and_freeze)
    master = Mastership(
        host=parts.identity.host,
        store=store,
        shared_store=shared,
        claimed=claimed,
        agents=parts.agents,
        clock=parts.clock,
        reached=parts.reached,
        why=why,
    )
    parts.mastership = master
    parts.gateway.serve_locally(master_handlers(master, host=parts.identity.name), leads=True)
    parts.on_role(f"master of pool {claimed.state.pool.name_label}, term {claimed.head.term}")
    try:
        await side_by_side(
            master.run(),
            _follow_own(parts, master, follower),
            parts.agent.reserving.settle(master),
        )
    finally:
        parts.mastership = None
        problem = "its mastership has just ended"
        parts.gateway.serve_locally(parts.answer_from_replica(follower, lambda: problem))
        # All that it had is garbage now.
        freezing.cancel()
        gc.unfreeze()
        loop.call_later(COLLECT_SECONDS, gc.collect)


def _collect_and_freeze() -> None:
    gc.collect()
    # Most of what is left stays as long as the mastership: the collector need not search it.
    gc.freeze()


async def _follow_own(parts: Parts, master: Mastership, follower: Follower) -> None:
    while True:
        try:
            await OwnSession(master.ledger, master.sessions, follower, parts.driver).run()
        except (DeltaDoesNotFollow, MalformedMessage) as error:
            log.warning("the replica starts over: %s", error)
            follower.start_over()
        except PoolError as error:
            log.info("the session with the own mastership ended: %s", error.message)
        await parts.clock.sleep(PAUSE_SECONDS)
