"""The locks of one mastership: taking, renewing and giving them up, and removing what ran out.

Taking and giving up are commits. Renewals are not: when a lock was last renewed is known to the
master alone, in memory, on its monotonic clock. The removal of a lock that was not renewed within
its time to live is a commit again. A new mastership knows of no renewals and gives every lock its
full time from its own beginning.

What is promised: nobody else gets a lock before its time to live has passed since a renewal was
answered, counted from when the renewal was sent. What is not: that a holder notices the loss at
once, or at all; the token is for that (`poolcore.model.Lock`).
"""

from __future__ import annotations

import logging
import uuid as uuidlib
from datetime import datetime
from typing import Protocol

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import Lock, LockId
from poolcore.replica import Put, State
from poolmaster.decide.locks import acquired, expired, lock_lost, overdue, released
from poolmaster.ledger import Decide, Decision, Outcome, Request

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often it is looked for locks that have run out; one may live so much longer, twice over."""


class Pool(Protocol):
    """What locks need of the master."""

    @property
    def clock(self) -> Clock:
        """Its clock."""
        ...

    @property
    def state(self) -> State:
        """The newest acknowledged state."""
        ...

    def now(self) -> datetime:
        """The time of day."""
        ...

    async def fresh(self) -> State:
        """The state, confirmed to be the newest after this was called."""
        ...

    async def write(
        self, decide: Decide, *, request: Request | None = None, while_reserved: bool = False
    ) -> Outcome:
        """Commit a decision."""
        ...


class Locks:
    """See the module's docstring."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._renewed: dict[LockId, float] = {}
        """On the monotonic clock: when each lock was last renewed, or first seen here."""
        self._expiring: frozenset[LockId] = frozenset()
        """Those that are being removed: their time is over, whenever that is committed."""

    async def acquire(
        self, *, name: str, holder: str, ttl_seconds: int, request: Request | None
    ) -> tuple[Lock, int]:
        """Take a lock; the lock, and the revision of the commit.

        A repeated request finds the lock that it took, which renews it. `LOCK_HELD` when somebody
        else has it, `LOCK_LOST` when the request had taken it and it is gone by now.
        """
        uuid, now = LockId(str(uuidlib.uuid4())), self._pool.now()

        def decide(state: State) -> Decision:
            lock = acquired(
                state, uuid=uuid, name=name, holder=holder, ttl_seconds=ttl_seconds, now=now
            )
            return Decision((Put(lock),), result=lock)

        outcome = await self._pool.write(decide, request=request)
        return self._renew(_taken(outcome)), outcome.revision

    async def renew(self, uuid: str) -> Lock:
        """Begin a lock's time anew; `LOCK_LOST` when it is gone."""
        lock = (await self._pool.fresh()).get(Lock, uuid)
        if lock is None:
            raise lock_lost(uuid)
        return self._renew(lock)

    async def release(self, uuid: str, *, request: Request | None) -> Outcome:
        """Give a lock up, or take it from its holder; `LOCK_LOST` when it is gone."""
        # Also while this pool of one is being taken in: locks do not come along.
        return await self._pool.write(
            lambda state: Decision(released(state, uuid)), request=request, while_reserved=True
        )

    async def run(self) -> None:
        """Remove locks that have run out, until the mastership ends or this is cancelled."""
        while True:
            self._expiring = self._look()
            if self._expiring:
                await self._remove(self._expiring)
            await self._pool.clock.sleep(LOOK_SECONDS)

    def _renew(self, lock: Lock) -> Lock:
        if lock.uuid in self._expiring or self._pool.state.get(Lock, lock.uuid) is None:
            raise lock_lost(lock.name_label)
        self._renewed[lock.uuid] = self._pool.clock.monotonic()
        return lock

    def _look(self) -> frozenset[LockId]:
        """The locks that have run out; takes note of those that were not seen before."""
        now = self._pool.clock.monotonic()
        locks = list(self._pool.state.all(Lock))
        self._renewed = {lock.uuid: self._renewed.get(lock.uuid, now) for lock in locks}
        return overdue(locks, self._renewed, now=now)

    async def _remove(self, uuids: frozenset[LockId]) -> None:
        try:
            outcome = await self._pool.write(
                lambda state: Decision(expired(state, uuids)), while_reserved=True
            )
        except PoolError as refusal:
            if refusal.reason is not Reason.STORE_UNAVAILABLE:
                raise
            # Looked at again after a while, as they are still there then.
            log.warning("locks that ran out are not removed yet: %s", refusal.message)
        else:
            if outcome.delta is not None:
                log.warning("locks that ran out were removed: %s", ", ".join(sorted(uuids)))


def _taken(outcome: Outcome) -> Lock:
    """The lock as the commit has it, also when the request is repeated."""
    changes = outcome.delta.changes if outcome.delta is not None else ()
    return next(c.object for c in changes if isinstance(c, Put) and isinstance(c.object, Lock))
