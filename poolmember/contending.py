"""A host among those that share their pool's store: master or member, as it turns out.

While it is a member it follows the master and looks whether there is still one, by the rules of
`poolmaster.decide.leadership`. When it claims the mastership it leads until that ends, and is a
member again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.facts import Standing
from poolcore.model import Accession, FailoverTimings, Host, Incarnation
from poolcore.replica import Head
from poolcore.side_by_side import side_by_side
from poolmaster.claiming import Claimed, claim
from poolmaster.decide.leadership import Ask, Claim, Facts, Round, Wait, next_action
from poolmaster.layout import ALIVE, read_head, read_host
from poolmaster.ledger import SteppedDown
from poolmaster.store.contract import Store, StoreError, StoreUnavailable
from poolmaster.succession import read_end
from poolmember.following import Directions, sessions
from poolmember.identity import Member, Membership, Own
from poolmember.inheriting import inherit
from poolmember.leading import one_mastership
from poolmember.parts import PAUSE_SECONDS, Change, Parts
from poolmember.returning import LeftBehind, Other, compare, take_log, while_leading
from poolmember.session import Follower
from poolmember.voting import relieve

log = logging.getLogger(__name__)

LASTING_SECONDS = 3.0
"""A mastership that lasted for so long was no failed attempt."""
TAKE_OVER_LOOK_SECONDS = 0.005
LOOK_SECONDS = 0.05
"""Without a master, the register is looked at so often: the new one is in it at once."""


@dataclass(slots=True)
class _Summons:
    """A master wants to be replaced by this host."""

    head: Head
    """Behind which its writes wait."""
    why: Accession
    given_up: bool = False


class Contender:
    """One host among those that share a store."""

    def __init__(
        self, parts: Parts, membership: Membership, follower: Follower, store: Store
    ) -> None:
        self._parts = parts
        self._follower = follower
        self._store = store
        self._host = parts.identity.host
        self._dice = random.Random(self._host)
        self._head: Head | None = None
        """The register as it was last read."""
        self._round: Round | None = None
        self._in_vain = 0
        self._jitter = 0.0
        """Thrown anew only with each change: the smallest of many throws would be no back-off."""
        self._changed_at = -math.inf
        self._directions = Directions()
        self._claiming = asyncio.Lock()
        self._why = Accession.RESTARTED
        """Of the last claim."""
        self._summons: asyncio.Queue[_Summons] = asyncio.Queue()
        self._life: Incarnation | None = None
        """What the store is of, once that is known."""
        self._over = False
        """Whether the chain goes on elsewhere after the commit that `_head` stands for."""
        self._has_led = False
        parts.contender = self

    async def run(self) -> Change:
        """Until the host is ejected; `StoreFailed` when the store has to be opened anew."""
        await self._read_register()
        # Its replica may be of what a person has gone on with: a host that was master here too.
        self._ensure_not_left_behind()
        if (change := await self._left()) is not None:
            return change
        while True:
            # Nobody has taken over since this host was the master: there is nothing to look for.
            end: Claimed | Change | None = None
            if self._is_ours:
                end = await self._reclaim()
            if end is None:
                end = await self._until_claimed_or_ejected()
            if isinstance(end, Change):
                return end
            await self._lead(end)
            await self._read_register()
            self._ensure_not_left_behind()
            if (change := await self._left()) is not None:
                return change
            if self._is_ours:
                await self._parts.clock.sleep(PAUSE_SECONDS)

    async def _left(self) -> Change | None:
        """What this host becomes when the chain goes on elsewhere; none if it has not left."""
        head, follower = self._head, self._follower
        if head is None or not self._over:
            return None
        with suppress(StoreUnavailable, TimeoutError):
            if head.master == self._host:
                try:
                    await take_log(self._store, follower, up_to=head.revision)
                except PoolError as error:
                    if error.reason is not Reason.STATE_UNWRITABLE:
                        raise
                    log.error("this host does not take the store over yet: %s", error.message)
                    return None
                if self._has_led:
                    # One that was down has to ask first if a person made another host go on.
                    self._parts.just_inherited = head.incarnation.uuid
                self._parts.reached("pool.succession:ended")
                return await inherit(self._parts, follower)
            async with asyncio.timeout(self._timings.confirm_seconds):
                master = await read_host(self._store, head.master)
            membership, state = self._membership, self._follower.state
            # Of the pool as it is: one that is gone for good would be asked in vain, and for long.
            known = [] if state is None else sorted(h.address for h in state.all(Host))
            first = () if master is None else (master.address,)
            name = "" if state is None else state.pool.name_label
            addresses = tuple(dict.fromkeys((*first, *known)))
            return Change(Member(pool=membership.pool, pool_name=name, addresses=addresses))
        return None

    async def _ended(self, head: Head) -> bool:
        """Whether the store's last commit was the one that `head` stands for."""
        if head.incarnation == self._life:
            return False
        if await read_end(self._store, head) is not None:
            return True
        self._life = head.incarnation
        return False

    async def _reclaim(self) -> Claimed | None:
        try:
            async with asyncio.timeout(self._timings.alive_seconds):
                # The pool may have gone on without this store: the others would know.
                await self._ask()
                return await self._claim(self._head, Accession.RESTARTED)
        except TimeoutError:
            # Somebody else may be master by now: this host is not to miss that.
            return None

    @property
    def _is_ours(self) -> bool:
        return self._head is not None and self._head.master == self._host

    @property
    def _membership(self) -> Membership:
        """As it is now: where the pool's own etcd is, changes."""
        membership = self._parts.identity.membership
        assert membership is not None  # noqa: S101 - it ends this role
        return membership

    # -- as master --------------------------------------------------------------------------------

    async def _lead(self, claimed: Claimed) -> None:
        self._has_led = True
        try:
            await side_by_side(
                one_mastership(
                    self._parts,
                    self._store,
                    claimed,
                    self._follower,
                    why=self._why,
                    shared=self._membership.store,
                ),
                while_leading(self._parts, self._own(claimed.head)),
            )
        except (SteppedDown, StoreError) as error:
            log.warning("the mastership of term %d has ended: %s", claimed.head.term, error)

    def _own(self, head: Head) -> Own:
        """What the store is of, as it is compared with what other hosts are of."""
        incarnation = head.incarnation
        return Own(
            pool=self._membership.pool,
            incarnation=incarnation.uuid,
            counter=incarnation.counter,
            store=self._membership.store,
        )

    def _ensure_not_left_behind(self) -> None:
        """Nobody leads from a store that the pool has gone on without."""
        state, head = self._follower.state, self._head
        if state is None or head is None or state.incarnation.counter <= head.incarnation.counter:
            return
        own = state.host(self._host)
        raise LeftBehind(Other(own.address, own.name_label), state.incarnation)

    # -- as member --------------------------------------------------------------------------------

    async def _until_claimed_or_ejected(self) -> Claimed | Change:
        self._follower.looks_for_a_master()
        self._round = None
        following = asyncio.ensure_future(self._follow())  # noqa: TID251 - awaited below
        electing = asyncio.ensure_future(self._elect())  # noqa: TID251 - awaited below
        obeying = asyncio.ensure_future(self._obey_summons())  # noqa: TID251 - awaited below
        # In the order in which they count: an ejection is the pool's last word on this host.
        tasks: list[asyncio.Future[Any]] = [following, electing, obeying]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            end: Claimed | Change = next(task for task in tasks if task.done()).result()
            return end
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> Change:
        known = self._membership.addresses if isinstance(self._membership, Member) else ()
        return await sessions(self._parts, self._follower, known, self._directions)

    async def _elect(self) -> Claimed | Change:
        while True:
            self._ensure_not_left_behind()
            if (change := await self._left()) is not None:
                return change
            match next_action(self._facts(), self._timings):
                case Wait(until, why):
                    log.debug("no claim: %s", why)
                    await self._pause(until)
                case Ask(why):
                    log.info("asking the other hosts for the master: %s", why)
                    self._round = await self._ask()
                case Claim() if self._head is None:
                    # A claim replaces a mastership that this host has seen.
                    self._round = await self._ask()
                case Claim(why):
                    log.warning("claiming the mastership: %s", why)
                    claimed = (
                        await self._reclaim()
                        if self._is_ours
                        else await self._claim(self._head, Accession.ELECTED)
                    )
                    if claimed is not None:
                        return claimed

    async def _obey_summons(self) -> Claimed:
        while True:
            summons = await self._summons.get()
            if summons.given_up:
                continue
            log.info("asked to take over from the master of term %d", summons.head.term)
            self._parts.reached("host.take_over:asked")
            # Its writes wait. It has gone on if there is another commit: then it is to stay.
            claimed = await self._claim(summons.head, summons.why, unmoved=True)
            if claimed is not None:
                self._parts.reached("host.take_over:claimed")
                return claimed

    async def _pause(self, until: float) -> None:
        seconds = until - self._parts.clock.monotonic()
        if self._round is not None:
            await self._parts.clock.sleep(min(seconds, LOOK_SECONDS))
            await self._register_and_alive(self._timings.vote_seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._follower.lost.wait()

    @property
    def _timings(self) -> FailoverTimings:
        state = self._follower.state
        return state.pool.failover if state is not None else FailoverTimings()

    def _facts(self) -> Facts:
        follower, state = self._follower, self._follower.state
        if follower.following is not None and not self._silent():
            self._round = None
        if self._head is not None and self._head.term > follower.term:
            # The session that has ended was with the master before the one that is looked for.
            follower.lost.clear()
        return Facts(
            now=self._parts.clock.monotonic(),
            hosts=1 if state is None else sum(1 for _ in state.all(Host)),
            heard_at=follower.heard,
            lost=follower.lost.is_set(),
            ours=self._is_ours,
            round=self._round,
            in_vain=self._in_vain,
            jitter=self._jitter,
        )

    def _silent(self) -> bool:
        silent_for = self._parts.clock.monotonic() - self._follower.heard
        return silent_for >= self._timings.suspect_seconds

    # -- asking -----------------------------------------------------------------------------------

    async def _ask(self) -> Round:
        """Ask everybody, within the time for a vote, and the store.

        The store may take longer: as long as a master may be without a confirmed `head`, so that
        one that is slow for everybody does not leave the pool without a master.
        """
        seconds, state = self._timings.vote_seconds, self._follower.state
        patience = self._timings.confirm_seconds
        others = [] if state is None else [h for h in state.all(Host) if h.uuid != self._host]
        looking = asyncio.gather(
            self._register_and_alive(patience), self._standing(self._follower.term, patience)
        )
        asking = asyncio.gather(*(self._ask_one(host, seconds) for host in others))
        (alive, own), answers = await asyncio.gather(looking, asking)
        master = None if self._head is None else self._head.master
        return Round(
            ended_at=self._parts.clock.monotonic(),
            own=own,
            answers=tuple(answer for answer in answers if answer is not None),
            master_answers=any(a and a.host == master and a.hears_master for a in answers),
            alive=alive,
        )

    async def _ask_one(self, host: Host, seconds: float) -> Standing | None:
        try:
            async with asyncio.timeout(seconds):
                found = await self._parts.agents.standing(
                    host.address, self._membership.pool, self._follower.term, seconds=seconds
                )
        except (TimeoutError, PoolError) as error:
            log.info("%s does not say where it stands: %s", host.name_label, error)
            return None
        if self._head is not None:
            other = Other(host.address, host.name_label, host.uuid)
            compare(self._own(self._head), other, found.incarnation)
        return found

    async def _register_and_alive(self, seconds: float) -> bool | None:
        try:
            async with asyncio.timeout(seconds):
                await self._read_register()
                return bool((await self._store.read(ALIVE)).items)
        except (TimeoutError, StoreUnavailable):
            return None

    async def _read_register(self) -> None:
        """See who is master by the register; another one than before is looked for there first.

        `StoreFailed` when that can never be seen again through this store.
        """
        with suppress(StoreUnavailable, TimeoutError):
            # Without a limit a store that hangs would keep this host from following anybody.
            async with asyncio.timeout(self._timings.confirm_seconds):
                found, before = await read_head(self._store), self._head
                over = found is not None and await self._ended(found)
                new = found is not None and (before is None or found.term != before.term)
                # The replica may be from before that host was taken in.
                master = await read_host(self._store, found.master) if found and new else None
            self._head, self._over = found, over
            if found is None or not new or found.master == self._host:
                return
            if before is not None:
                self._count_change()
            self._point_to_master(found, master)

    def _count_change(self) -> None:
        now = self._parts.clock.monotonic()
        self._in_vain = self._in_vain + 1 if now - self._changed_at < LASTING_SECONDS else 0
        self._jitter = self._dice.random()
        self._changed_at = now

    def _point_to_master(self, head: Head, master: Host | None) -> None:
        """There is a master that this host has not met: it has time to, before it is suspected."""
        if master is not None and head.term > self._follower.term:
            self._follower.looks_for_a_master()
            self._directions.point_to(master.address)

    async def _claim(
        self, of: Head | None, why: Accession, *, unmoved: bool = False
    ) -> Claimed | None:
        """Replace the mastership `of`; none if that failed."""
        try:
            if self._over:
                raise SteppedDown("the pool's store is elsewhere")
            # One at a time: a second one of the same mastership finds that it is over.
            async with self._claiming:
                claimed = await claim(
                    self._store,
                    self._host,
                    of=of,
                    unmoved=unmoved,
                    replica=self._follower.state,
                    alive_seconds=self._timings.alive_seconds,
                    members_only=True,
                )
                self._why = why
                return claimed
        except (SteppedDown, StoreError) as error:
            log.warning("the claim has failed: %s", error)
            if isinstance(error, StoreError):
                await relieve(self._store, self._follower, error)
            self._count_change()
            self._follower.looks_for_a_master()
            self._round = None
            await self._read_register()
            return None

    # -- what other hosts ask ---------------------------------------------------------------------

    async def standing(self, term: int) -> Standing:
        """Where this host stands, asked by one that does not hear the master of `term`."""
        return await self._standing(term, self._timings.vote_seconds / 2)

    async def _standing(self, term: int, seconds: float) -> Standing:
        follower, master = self._follower, self._parts.mastership
        following = follower.following
        hears = following is not None and following.term >= term and not self._silent()
        if master is not None:
            hears = master.may_speak
        own = None if follower.state is None else follower.state.get(Host, self._host)
        return Standing(
            host=self._host,
            revision=follower.state.revision if follower.state is not None else 0,
            priority=own.failover_priority if own is not None and own.may_lead else 0,
            hears_master=hears,
            reaches_store=await self._reaches_store(seconds),
            leads=master is not None,
            incarnation=follower.state.incarnation if follower.state is not None else None,
            in_maintenance=own is not None and not own.enabled,
        )

    async def take_over(self, head: Head, why: Accession) -> None:
        """Claim the mastership that `head` is of; returns when this host has confirmed its own."""
        summons = _Summons(head, why)
        self._summons.put_nowait(summons)
        try:
            while (
                master := self._parts.mastership
            ) is None or master.ledger.head.term <= head.term:
                await self._parts.clock.sleep(TAKE_OVER_LOOK_SECONDS)
            await master.fresh()
        finally:
            # Answered, or nobody waits any more.
            summons.given_up = True

    async def _reaches_store(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await read_head(self._store) is not None
        except (TimeoutError, StoreError):
            return False
