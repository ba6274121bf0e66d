"""Whether a host may be made master without its master and quorum, and what that would lack.

Pure. What the hosts that do not answer had can only be told from what was promised: that a host
was in step. Whoever was in step when it last heard of its master has every commit that was
acknowledged until then (design §4.3).

After a handover it takes a while until everybody knows of it, and until then several hosts have
everything: the former master, which is in step with the next one, the heir itself, and the host
that was in step before and may not know of the handover. Were each of them made master without a
word, one after the other, what the first was told would be lost. So of those who know of the
handover only the former master counts, and only if the one that was in step before answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poolcore.errors import PoolError, Reason
from poolcore.facts import EmergencyOutlook, Peer, Standing, Tail
from poolcore.model import Host, HostId
from poolcore.replica import State


def outlook(
    state: State,
    host: Host,
    answers: Sequence[tuple[Host, Standing | None]],
    *,
    succeeded: bool = False,
    has_store: bool = False,
    tails: Mapping[HostId, Tail | None] | None = None,
) -> EmergencyOutlook:
    """What `host` would go on from, whose replica is at `state`; none: a host does not answer.

    `succeeded`: that state ends with a master's last commit, which handed the pool over.
    `has_store`: the host has the pool's store, and waits for somebody to tell it that it may lead.
    `tails`: what the disks of voters have beyond that state; none: a host could not say.

    Raises `MASTER_LIVES` when one hears a master that is not left behind, `QUORUM_LIVES` when one
    has the store, `REPLICA_BEHIND` when one that could lead has more than this host, and
    `ANOTHER_IN_STEP` when one is in step: then that is the one to go on from. A master that comes
    back asks the host that was in step, and no other, whether the pool has gone on without it.
    """
    peers = tuple(_peer(other, standing) for other, standing in answers)
    for other, standing in answers:
        if standing is None:
            continue
        found = standing.incarnation
        # One that is only just starting cannot say of what it is.
        newer = found is None or found.counter >= state.incarnation.counter
        if newer and (standing.leads or standing.hears_master):
            raise PoolError(Reason.MASTER_LIVES, host=other.name_label)
        if newer and standing.reaches_store and not other.witness:
            # It leads as soon as it may: two that are told to go on would both do so.
            raise PoolError(Reason.QUORUM_LIVES, host=other.name_label)
    own = state.reach
    witnesses = {other.uuid for other, _ in answers if other.witness}
    able = (peer for peer in peers if peer.uuid not in witnesses)
    best = max(able, key=lambda peer: peer.reach, default=None)
    if best is not None and best.reach > own:
        raise PoolError(
            Reason.REPLICA_BEHIND,
            host=host.name_label,
            revision=str(state.revision),
            better=best.name_label,
            newer=str(best.revision),
            address=best.address,
        )
    in_step = state.get(Host, state.pool.in_step)
    silent = {peer.uuid for peer in peers if peer.incarnation is None}
    counts = in_step is not None and in_step.uuid not in witnesses
    partner = next((p for p in peers if counts and p.uuid == state.pool.in_step), None)
    waits = succeeded or has_store
    if silent and partner is not None and partner.reach >= own and not waits:
        raise PoolError(
            Reason.ANOTHER_IN_STEP,
            host=host.name_label,
            better=partner.name_label,
            address=partner.address,
        )
    ahead = any(peer.reach > own for peer in peers)
    missing = bool(silent)
    if in_step is not None and in_step.uuid == host.uuid:
        missing = succeeded and state.pool.was_in_step in silent
    tails = tails or {}
    voters = state.pool.voters
    for voter in () if voters is None else voters.hosts:
        tail = tails.get(voter)
        missing = missing or tail is None or not tail.whole
    taken = tail_to_take(tails)
    return EmergencyOutlook(
        host=host.uuid,
        name_label=host.name_label,
        pool_name=state.pool.name_label,
        incarnation=state.incarnation,
        revision=state.revision,
        in_step=None if in_step is None else in_step.name_label,
        may_lack=ahead or missing,
        tail_from=None if taken is None else state.host(taken[0]).name_label,
        tail_commits=0 if taken is None else len(taken[1].deltas),
        peers=peers,
    )


def tail_to_take(tails: Mapping[HostId, Tail | None]) -> tuple[HostId, Tail] | None:
    """That of the voter whose log has everything committed that the others' have, if any is there.

    One that ends with more commits may yet be the older one: nobody has taken them over from it.
    """
    found = [(tail.position, host, tail) for host, tail in tails.items() if tail is not None]
    _, host, newest = max(found, key=lambda each: each[:2], default=((0, 0, 0), None, Tail()))
    return (host, newest) if host is not None and newest.deltas else None


def _peer(host: Host, standing: Standing | None) -> Peer:
    return Peer(
        uuid=host.uuid,
        name_label=host.name_label,
        address=host.address,
        answers=standing is not None,
        incarnation=None if standing is None else standing.incarnation,
        revision=0 if standing is None else standing.revision,
    )
