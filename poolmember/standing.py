"""What the other hosts of the pool ask of this one: where it stands, and that it take over."""

from __future__ import annotations

import logging

from poolcore.errors import PoolError, Reason
from poolcore.facts import Standing
from poolcore.model import Accession, FailoverTimings, Host
from poolcore.replica import Head
from poolmember.identity import leads_always
from poolmember.parts import HOLD_SECONDS, Parts
from poolmember.session import Follower

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.005


async def standing(parts: Parts, pool: str, term: int) -> Standing:
    """Where this host stands in `pool`; `HOST_NOT_IN_POOL` when it is of another."""
    membership = parts.identity.membership
    if membership is None or membership.pool != pool:
        name = parts.identity.name
        raise PoolError(Reason.HOST_NOT_IN_POOL, host=name, pool=pool)
    if parts.contender is not None:
        return await parts.contender.standing(term)
    follower, master = parts.follower, parts.mastership
    # What is durable, as a host that is only just starting has not read its replica yet.
    head = None if follower is None or follower.in_doubt else follower.store.head
    known = None if head is None else head.incarnation
    last = None if head is None else head.last
    hears = follower is not None and _hears(parts, follower, term)
    return Standing(
        host=parts.identity.host,
        revision=0 if last is None else last.revision,
        priority=_priority(parts),
        hears_master=master is not None or hears,
        # The host that has the store leads as soon as it may.
        reaches_store=master is not None or leads_always(membership),
        leads=master is not None,
        incarnation=known if master is None else master.ledger.head.incarnation,
    )


def _priority(parts: Parts) -> int:
    state = None if parts.follower is None else parts.follower.state
    host = None if state is None else state.get(Host, parts.identity.host)
    return 0 if host is None else host.failover_priority


def _hears(parts: Parts, follower: Follower, term: int) -> bool:
    head, state = follower.following, follower.state
    timings = FailoverTimings() if state is None else state.pool.failover
    silent = parts.clock.monotonic() - follower.heard >= timings.suspect_seconds
    return head is not None and head.term >= term and not silent


async def take_over(parts: Parts, head: Head, why: Accession) -> None:
    """Become the master in the place of the one that `head` names."""
    if parts.contender is None:
        name, problem = parts.identity.name, "it does not share the pool's store"
        raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=name, problem=problem)
    if parts.identity.witness:
        name, problem = parts.identity.name, "it votes and never becomes master"
        raise PoolError(Reason.HOST_IS_WITNESS, host=name, problem=problem)
    await parts.contender.take_over(head, why)


async def hand_over(parts: Parts) -> None:
    """Before this host's daemon ends: see to it that another host is master, if one can be."""
    master = parts.mastership
    if master is None:
        return
    try:
        await master.handover.to_the_best()
    except PoolError as error:
        log.info("the mastership is not handed over: %s", error.message)
        return
    # What waited here goes on to the new master, through this host.
    await _attached(parts, HOLD_SECONDS)


async def _attached(parts: Parts, seconds: float) -> None:
    """Return when this host has a session with another master, or after so long."""
    until = parts.clock.monotonic() + seconds
    while parts.clock.monotonic() < until:
        follower = parts.follower
        if parts.mastership is None and follower is not None and follower.following is not None:
            return
        await parts.clock.sleep(LOOK_SECONDS)
