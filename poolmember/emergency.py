"""What a person does when the master or the quorum is gone (design §5).

All of it is asked of one named host, by its own API, and works with nothing else alive. The host
that becomes master goes on from its replica: it commits to itself that it is the heir of a new
incarnation, and founds the store of that as after any other succession. Hosts of an older
incarnation that come back become members.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from poolcore import replica
from poolcore.errors import PoolError, Reason
from poolcore.facts import EmergencyOutlook, RecoveredMember
from poolcore.model import Accession, Host, HostId, Incarnation, Kind
from poolcore.replica import Head, State
from poolcore.wire.chain import decode_delta, encode_delta
from poolmaster.decide.gone import uncertain
from poolmaster.decide.messages import noted
from poolmaster.succession import next_incarnation, succession
from poolmember.identity import Member, Membership, Own, leads_always
from poolmember.inheriting import inherit
from poolmember.outlook import ASK_SECONDS, look_out
from poolmember.parts import Change, Parts
from poolmember.returning import take_own_log
from poolmember.roles import Roles
from poolmember.state_dir import STORE_FILE

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
FOUND_SECONDS = 20.0
LOOK_SECONDS = 0.02
LOAD_SECONDS = 2.0
EMERGENCY_TRANSITION = "EMERGENCY_TRANSITION"


class _Moved(Exception):
    """The host is not what the person was shown any more."""


class Emergency:
    """What one host can be told when its pool has no master."""

    def __init__(self, parts: Parts, roles: Roles) -> None:
        self._parts = parts
        self._roles = roles
        self._one_at_a_time = asyncio.Lock()

    # -- becoming the master ----------------------------------------------------------------------

    async def transition(
        self, *, confirmed: bool, accept_loss: bool
    ) -> tuple[EmergencyOutlook, Head | None]:
        """Make this host the master if that is `confirmed`; what it goes on from.

        Raises `ALREADY_MASTER`, `HOST_IS_WITNESS`, `MASTER_LIVES`, `QUORUM_LIVES`,
        `REPLICA_MISSING`, `REPLICA_BEHIND`, `ANOTHER_IN_STEP`, `STATE_UNWRITABLE` or, without
        `accept_loss`, `LOSS_NOT_ACCEPTED`; nothing has happened then.
        """
        async with self._one_at_a_time:
            while True:
                state = await self._state()
                membership = self._parts.identity.membership
                found, tail = await look_out(self._parts, state)
                if not confirmed:
                    return found, None
                if found.may_lack and not accept_loss:
                    names = ", ".join(peer.name_label for peer in found.may_have_more)
                    revision = str(found.revision)
                    raise PoolError(Reason.LOSS_NOT_ACCEPTED, hosts=names, revision=revision)
                with suppress(_Moved):
                    await self._roles.turn(partial(self._succeed, state, membership, found, tail))
                    return found, await self._own_head(found)

    async def _state(self) -> State:
        parts, name = self._parts, self._parts.identity.name
        if parts.identity.witness:
            problem = "it has the pool's metadata and never becomes master"
            raise PoolError(Reason.HOST_IS_WITNESS, host=name, problem=problem)
        if parts.forgotten is not None:
            raise parts.forgotten
        until = parts.clock.monotonic() + LOAD_SECONDS
        while parts.clock.monotonic() < until:
            if parts.mastership is not None:
                raise PoolError(Reason.ALREADY_MASTER, host=name)
            found = None if parts.follower is None else await parts.follower.durable()
            if found is not None:
                return found
            # It is being read.
            await parts.clock.sleep(LOOK_SECONDS)
        raise PoolError(Reason.REPLICA_MISSING, host=name)

    async def _succeed(
        self,
        seen: State,
        membership: Membership | None,
        found: EmergencyOutlook,
        tail: Sequence[bytes],
    ) -> Change:
        """Commit that this host is the heir, and found the store; no role runs meanwhile."""
        parts = self._parts
        if membership != parts.identity.membership:
            # It may have led: then its replica is a moment behind what was acknowledged.
            raise _Moved
        if membership is None:
            raise PoolError(Reason.REPLICA_MISSING, host=parts.identity.name)
        async with parts.following(membership.pool) as follower:
            await follower.load()
            if isinstance(membership, Own) and leads_always(membership):
                await take_own_log(parts, membership, follower)
            state = follower.state
            if state is None or state.last != seen.last:
                # A master's last words, its own or another's, or it lives: to be looked at again.
                raise _Moved
            certain, taken = state.revision, []
            for data in tail:
                delta = decode_delta(data)
                state = replica.apply(state, delta)
                taken.append((delta, data))
            known = [p.incarnation for p in found.peers if p.incarnation is not None]
            # The next one may be that of a handover that the former master had begun.
            after = max(i.counter for i in (state.incarnation, *known)) + 1
            # Of what was taken from a voter's disk nobody knows if it was committed. A host that
            # has something else there is to find that the chain has forked before.
            incarnation = next_incarnation(state, after=after, forked_at=certain)
            last = succession(
                state,
                incarnation,
                follower.host,
                Accession.EMERGENCY,
                term=max(follower.term, state.last.term),
                in_step=None,
                changes=(
                    *uncertain(state, {peer.uuid for peer in found.to_be_off}),
                    *self._message(state, found),
                ),
            )
            await follower.store.append([*taken, (last, encode_delta(last))])
            parts.just_inherited = incarnation.uuid
            log.warning("this host goes on without its former master, from %s", state.last)
            parts.reached("pool.emergency:decided")
            if leads_always(membership):
                # The store that it has goes first; the replica remembers that it is the heir.
                member = Member(pool=follower.pool, pool_name=found.pool_name, addresses=())
                return Change(member, retire=(STORE_FILE,))
            follower.loaded = False
            return await inherit(parts, follower)

    def _message(self, state: State, found: EmergencyOutlook) -> tuple[replica.Change, ...]:
        lost = ", ".join(peer.name_label for peer in found.to_be_off) or "nobody"
        body = (
            f"{found.name_label} was made master by a person, from revision {found.revision} of "
            f"incarnation {found.incarnation.counter}. Without an answer: {lost}."
        )
        if found.tail_from is not None:
            body += (
                f" {found.tail_commits} later changes were on the disk of {found.tail_from}'s etcd "
                "and have been taken along."
            )
        if found.may_lack:
            body += " Later changes that only they had are missing."
        return noted(
            state,
            EMERGENCY_TRANSITION,
            cls=Kind.POOL,
            obj=state.pool.uuid,
            now=self._parts.clock.now(),
            priority=1 if found.may_lack else 2,
            body=body,
        )

    async def _own_head(self, found: EmergencyOutlook) -> Head:
        """The register of the new incarnation, once this host leads there."""
        parts = self._parts

        def leads() -> Head | None:
            head = None if parts.mastership is None else parts.mastership.ledger.head
            newer = head is not None and head.incarnation.counter > found.incarnation.counter
            return head if newer else None

        await self._until(leads, FOUND_SECONDS, "its new store is still being founded")
        head = leads()
        if head is None:
            raise PoolError(Reason.OUTCOME_UNKNOWN)
        return head

    async def _until(self, holds: Callable[[], object], seconds: float, problem: str) -> None:
        clock = self._parts.clock
        until = clock.monotonic() + seconds
        while not holds():
            if clock.monotonic() > until:
                raise PoolError(Reason.NO_MASTER, host=self._parts.identity.name, problem=problem)
            await clock.sleep(LOOK_SECONDS)

    # -- finding the master -----------------------------------------------------------------------

    async def reset_master(self, address: str) -> HostId:
        """Follow the master at `address`, `host:port`, from now on; its uuid.

        For a host that does not find it by itself, because it is where no host of the pool was
        before. Raises `HOST_IS_MASTER`, `NOT_THE_MASTER`, `INCARNATION_MISMATCH`, what keeps that
        host from answering, or `NO_MASTER` when it is not followed in time.
        """
        parts, membership = self._parts, self._parts.identity.membership
        if parts.mastership is not None:
            raise PoolError(Reason.HOST_IS_MASTER, host=parts.identity.name)
        if membership is None:
            raise PoolError(Reason.REPLICA_MISSING, host=parts.identity.name)
        there = await parts.agents.standing(address, membership.pool, 0, seconds=ASK_SECONDS)
        if not there.leads or there.incarnation is None:
            problem = "it answers as a member"
            raise PoolError(Reason.NOT_THE_MASTER, host=address, problem=problem)
        state = None if parts.follower is None else parts.follower.state
        ours = None if state is None else state.incarnation
        if ours is not None and there.incarnation.uuid != ours.uuid:
            _check_newer(ours, there.incarnation)
        same = ours is not None and there.incarnation.uuid == ours.uuid
        await self._roles.turn(partial(_following, membership, address, same_store=same))

        def follows() -> bool:
            return parts.follower is not None and parts.follower.following is not None

        await self._until(follows, FOLLOW_SECONDS, f"it does not reach {address}")
        return there.host

    async def recover_members(self) -> tuple[RecoveredMember, ...]:
        """Tell every member that does not follow this master where it is; what became of each."""
        parts, master = self._parts, self._parts.mastership
        if master is None:
            problem = "it follows another, or none"
            raise PoolError(Reason.NOT_THE_MASTER, host=parts.identity.name, problem=problem)
        own = master.state.host(master.host).address

        async def recover(host: Host) -> RecoveredMember:
            problem = None
            if master.sessions.get(host.uuid) is None:
                try:
                    await parts.agents.reset_master(host.address, own, seconds=2 * FOLLOW_SECONDS)
                except PoolError as error:
                    problem = error.message
            return RecoveredMember(
                uuid=host.uuid,
                name_label=host.name_label,
                follows=problem is None,
                problem=problem,
            )

        others = (h for h in master.state.all(Host) if h.uuid != master.host)
        ordered = sorted(others, key=lambda h: h.name_label)
        return tuple(await asyncio.gather(*map(recover, ordered)))


def _check_newer(ours: Incarnation, theirs: Incarnation) -> None:
    if theirs.counter <= ours.counter:
        raise PoolError(
            Reason.INCARNATION_MISMATCH,
            expected=f"{ours.counter} ({ours.uuid})",
            actual=f"{theirs.counter} ({theirs.uuid})",
        )


async def _following(membership: Membership, address: str, *, same_store: bool) -> Change:
    """Become a member that looks for its master at `address` first."""
    if isinstance(membership, Member):
        known = (address, *(a for a in membership.addresses if a != address))
        store = membership.store if same_store else None
        return Change(replace(membership, addresses=known, store=store))
    if membership.store is not None and same_store:
        return Change(membership)
    member = Member(pool=membership.pool, pool_name="", addresses=(address,))
    # Its replica has everything that the store has (`returning`, `ceding`).
    return Change(member, retire=(STORE_FILE,))
