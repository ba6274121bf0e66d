"""What a host would go on from without a master or a quorum, asked of all that answers.

For a person who is about to make it the master (`poolmember.emergency`): the other hosts say where
they stand, and the disks of the voters in reach what they have beyond this host's replica. Nothing
is changed. What follows from it decides `poolmaster.decide.emergency`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from poolcore.errors import PoolError, Reason
from poolcore.facts import EmergencyOutlook, Standing, Tail
from poolcore.model import Accession, Host, HostId
from poolcore.replica import State
from poolmaster.decide.emergency import outlook, tail_to_take
from poolmaster.decide.voters import majority
from poolmaster.operations.found_etcd import is_moving
from poolmaster.own_etcd import own_store_url
from poolmember.etcd.tail import while_of_pool
from poolmember.identity import leads_always
from poolmember.parts import Parts
from poolmember.standing import standing
from poolmember.voting import register_at

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
STORE_SECONDS = 3.0
"""An etcd elects a leader in about a second, and is asked for longer than that."""


async def look_out(parts: Parts, state: State) -> tuple[EmergencyOutlook, Sequence[bytes]]:
    """What this host would go on from, and which deltas of a voter's disk it would take.

    `state`: of its replica. Raises `REPLICA_MISSING`, `MASTER_LIVES`, `QUORUM_LIVES`,
    `REPLICA_BEHIND` or `ANOTHER_IN_STEP` when it is not the one to go on, or nobody has to.
    """
    host = state.get(Host, parts.identity.host)
    if host is None:
        raise PoolError(Reason.REPLICA_MISSING, host=parts.identity.name)
    succeeded = await _has_just_succeeded(parts, state)
    others = sorted((h for h in state.all(Host) if h.uuid != host.uuid), key=lambda h: h.name_label)
    own, answers = await _standings(parts, state, others)
    there = [own, *(s for s in answers if s is not None)]
    if any(s.hears_master for s in there) and not any(s.leads for s in there):
        # It may have been lost this very moment: one that lives is heard again by then.
        await parts.clock.sleep(2 * state.pool.failover.suspect_seconds)
        own, answers = await _standings(parts, state, others)
    membership = parts.identity.membership
    has_store = membership is not None and leads_always(membership)
    if own.reaches_store and not has_store:
        raise PoolError(Reason.QUORUM_LIVES, host=host.name_label)
    if own.hears_master:
        raise PoolError(Reason.MASTER_LIVES, host=host.name_label)
    answered = list(zip(others, answers, strict=True))
    in_reach = {own.host, *(h.uuid for h, standing in answered if standing is not None)}
    if not has_store and await _reads_the_store(parts, state, in_reach):
        raise PoolError(Reason.QUORUM_LIVES, host=host.name_label)
    tails = await _tails(parts, state, [h for h, standing in answered if standing is not None])
    found = outlook(state, host, answered, succeeded=succeeded, has_store=has_store, tails=tails)
    if _has_unknown_etcd(parts, state) or (not has_store and is_moving(state)):
        # The store may have moved there, and changes been acknowledged, before it was told.
        found = replace(found, may_lack=True)
    taken = tail_to_take(tails)
    if taken is None:
        return found, ()
    deltas = while_of_pool(state, host.uuid, taken[1].deltas)
    if len(deltas) < len(taken[1].deltas):
        named = found.tail_from if deltas else None
        found = replace(found, tail_from=named, tail_commits=len(deltas), may_lack=True)
    return found, deltas


async def _reads_the_store(parts: Parts, state: State, in_reach: Collection[HostId]) -> bool:
    """Whether the pool's own etcd answers after all: it has been electing a leader, or started.

    Not asked where those in reach are no majority of it, and so cannot have a quorum.
    """
    voters, membership = state.pool.voters, parts.identity.membership
    if voters is None or membership is None:
        return False
    if sum(voter in in_reach for voter in voters.hosts) < majority(voters):
        return False
    url = own_store_url(state, near=parts.identity.host)
    if url is None:
        return False
    head = await register_at(parts, membership.pool, url, seconds=STORE_SECONDS)
    return head is not None and head.incarnation.uuid == voters.token


async def _tails(parts: Parts, state: State, others: Sequence[Host]) -> dict[HostId, Tail | None]:
    """What the disks of this host and of those that answer have beyond `state`."""
    follower = parts.follower
    last = None if follower is None else await follower.newest_commit()
    if last is None or last.revision != state.revision:
        return {}
    pool = state.pool.uuid

    async def of(host: Host) -> Tail | None:
        try:
            return await parts.agents.voter_tail(host.address, pool, last)
        except PoolError as error:
            log.info("%s does not say what its etcd has: %s", host.name_label, error)
            return None

    own, *found = await asyncio.gather(parts.voter.tail(pool, last), *map(of, others))
    return {parts.identity.host: own} | dict(
        zip((host.uuid for host in others), found, strict=True)
    )


def _has_unknown_etcd(parts: Parts, state: State) -> bool:
    """Whether this host votes in an etcd that its replica knows nothing of."""
    voters, cluster = state.pool.voters, parts.voter.cluster
    return cluster is not None and (voters is None or voters.token != cluster[0])


async def _has_just_succeeded(parts: Parts, state: State) -> bool:
    """Whether `state` ends with a master's last commit, which handed the pool over.

    Not if a person made it: what may have been missing then, may be missing now.
    """
    follower = parts.follower
    found = None if follower is None else await follower.ends_with()
    same = found is not None and found.incarnation == state.incarnation
    return same and found is not None and found.why is not Accession.EMERGENCY


async def _standings(
    parts: Parts, state: State, others: Sequence[Host]
) -> tuple[Standing, list[Standing | None]]:
    """Where this host and the others stand now."""
    answers = await asyncio.gather(*(_standing(parts, state, host) for host in others))
    return await standing(parts, state.pool.uuid, 0), answers


async def _standing(parts: Parts, state: State, host: Host) -> Standing | None:
    try:
        return await parts.agents.standing(host.address, state.pool.uuid, 0, seconds=ASK_SECONDS)
    except PoolError as error:
        log.info("%s does not say where it stands: %s", host.name_label, error)
        return None
