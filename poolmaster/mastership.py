"""One mastership: claiming the register, the parts that then run, what the API calls.

A mastership begins by moving `head` to the next term, which ends every other one, and ends when
its ledger steps down. Nothing survives it but what is in the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts
from poolcore.model import Accession, Host, HostId, Incarnation, Object, Pool, PoolId
from poolcore.outlook import Warning
from poolcore.replica import CommitId, Delta, Head, Put, State, apply, snapshot
from poolcore.wire.chain import encode_delta
from poolmaster.agents import Agents
from poolmaster.claiming import Claimed
from poolmaster.decide.if_lost import LiveFacts
from poolmaster.decide.inventory import joined
from poolmaster.decide.masters import began, founding_record
from poolmaster.etcd_upkeep import EtcdUpkeep
from poolmaster.in_step import InStep
from poolmaster.layout import HEAD, NONCE, commit_writes, encode_head
from poolmaster.ledger import (
    Decide,
    Decision,
    Ledger,
    Outcome,
    PendingWrite,
    Request,
    SteppedDown,
)
from poolmaster.locks import Locks
from poolmaster.operations.designate import Designate, Handover
from poolmaster.operations.drill import Drill
from poolmaster.operations.eject import Eject
from poolmaster.operations.examine import Examiner
from poolmaster.operations.found_etcd import FoundEtcd
from poolmaster.operations.gone import Gone
from poolmaster.operations.join import Join
from poolmaster.operations.leave_etcd import LeaveEtcd
from poolmaster.operations.maintenance import Maintenance
from poolmaster.operations.steps import Operations
from poolmaster.own_etcd import own_store_url
from poolmaster.sessions import Sessions
from poolmaster.steward import Steward
from poolmaster.store.contract import Compare, Store, StoreError, StoreFailed, Write
from poolmaster.store.etcd.store import EtcdStore
from poolmaster.tenure import Tenure
from poolmaster.voter_keeping import VoterKeeping

log = logging.getLogger(__name__)


async def found(
    store: Store, incarnation: Incarnation, host: HostId, objects: tuple[Object, ...]
) -> None:
    """Begin a pool's chain in an empty store: revision 1 of term 1 holds `objects`.

    Raises `StoreFailed` when the store is not empty.
    """
    nothing = snapshot(incarnation, CommitId(0, 0), (), ())
    delta = Delta(
        incarnation=incarnation.uuid,
        commit=CommitId(1, 1),
        predecessor=CommitId(0, 0),
        changes=tuple(Put(obj) for obj in objects),
    )
    founded = apply(nothing, delta)
    head = Head(incarnation, term=1, revision=1, master=host)
    writes = commit_writes(nothing, founded, delta, encode_delta(delta))
    writes[HEAD] = Write(HEAD, encode_head(head))
    if not await store.transact([Compare(HEAD, None)], list(writes.values())):
        raise StoreFailed("the store already holds a pool")


def founding_objects(facts: HostFacts, pool: Pool, *, now: datetime) -> tuple[Object, ...]:
    """What a pool of one consists of: the pool, what its first host brings in, its mastership."""
    empty = snapshot(Incarnation(1, pool.uuid), CommitId(0, 0), (pool,), ())
    changes = joined(empty, facts, now=now)
    objects = tuple(c.object for c in changes if isinstance(c, Put))
    return (pool, *objects, founding_record(pool.uuid, facts.host, now=now))


class Mastership:
    """The parts of one mastership. Implements `operations.steps.Pool` and `locks.Pool`."""

    def __init__(
        self,
        *,
        host: HostId,
        store: Store,
        shared_store: str | None,
        claimed: Claimed,
        agents: Agents,
        clock: Clock,
        reached: Callable[[str], None],
        why: Accession = Accession.RESTARTED,
    ) -> None:
        self.host = host
        self.why = why
        self.store = store
        self._shared_store = shared_store
        self.clock = clock
        self.ledger = Ledger(store, claimed.head, claimed.state, clock=clock)
        self._tenure = (
            None
            if claimed.lease is None
            else Tenure(self.ledger, store, host=host, lease=claimed.lease, clock=clock)
        )
        self.sessions = Sessions(
            self.ledger,
            clock=clock,
            may_speak=lambda: self.may_speak,
            is_ahead=self._is_ahead,
        )
        self.in_step: InStep | None = None
        if shared_store is None:
            self.in_step = InStep(self.ledger, self.sessions, host=host, clock=clock)
            self.ledger.second_copy = self.in_step
        self.examiner = Examiner(agents, clock, self._nonce)
        self.agents = agents
        self.join = Join(agents, self.examiner, self.sessions, host, lambda: self.shared_store)
        self.eject = Eject(agents, self.sessions, host)
        self.gone = Gone(agents, self.sessions, host)
        self.handover = Handover(
            self.ledger, self.sessions, agents, shared=shared_store is not None
        )
        self.designate = Designate(self.handover, self.sessions, host)
        self.drill = Drill(self.ledger, self.sessions, self.live_facts, host, clock)
        self.maintenance = Maintenance(self.handover, self.sessions, host)
        self.found_etcd = FoundEtcd(agents, self.ledger, host, has_store=shared_store is None)
        self.leave_etcd = LeaveEtcd(agents, self.ledger, self.sessions, host)
        self.operations = Operations(
            self,
            (
                self.join,
                self.eject,
                self.designate,
                self.maintenance,
                self.drill,
                self.found_etcd,
                self.leave_etcd,
            ),
        )
        self._etcd_upkeep = (
            EtcdUpkeep(
                store.cluster, is_own=lambda: self.state.pool.voters is not None, clock=clock
            )
            if isinstance(store, EtcdStore)
            else None
        )
        self._voter_keeping = (
            VoterKeeping(
                self,
                store.cluster,
                sessions=self.sessions,
                agents=agents,
                clock=clock,
            )
            if isinstance(store, EtcdStore)
            else None
        )
        self._steward = Steward(
            self,
            operations=self.operations,
            found_etcd=self.found_etcd,
            leave_etcd=self.leave_etcd,
            sessions=self.sessions,
            agents=agents,
            host=host,
            clock=clock,
        )
        self.locks = Locks(self)
        self._reached = reached

    @property
    def state(self) -> State:
        """The newest acknowledged state."""
        return self.ledger.state

    @property
    def shared_store(self) -> str | None:
        """The URL of the store if the pool's hosts share it: of its own etcd, where that is now."""
        if self._shared_store is None:
            return None
        return own_store_url(self.state, near=self.host) or self._shared_store

    @property
    def store_warnings(self) -> tuple[Warning, ...]:
        """What a person is to know of the store."""
        return () if self._etcd_upkeep is None else self._etcd_upkeep.warnings

    @property
    def may_speak(self) -> bool:
        """Whether members may be told that their master is there: nobody else was, a moment ago."""
        if self.drill.silent:
            return False
        return self._tenure is None or self._tenure.may_speak

    def live_facts(self, state: State) -> LiveFacts:
        """What the master knows of the moment: who is attached, and how far each has come."""
        sessions = ((h.uuid, self.sessions.get(h.uuid)) for h in state.all(Host))
        applied = {uuid: session.applied for uuid, session in sessions if session is not None}
        # The store is at this host, so nothing that is committed is missing here.
        applied[self.host] = state.revision
        return LiveFacts(
            master=self.host, applied=applied, shared_store=self.shared_store is not None
        )

    def _is_ahead(self, member: HostId) -> bool:
        if self.ledger.heir is not None:
            # The last commit may be withdrawn as long as nobody else has it.
            return member == self.ledger.heir
        return self.in_step is not None and self.in_step.is_ahead(member)

    @property
    def pool(self) -> PoolId:
        """Which pool it is."""
        return self.state.pool.uuid

    async def run(self) -> None:
        """Until `SteppedDown`, or cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                # First in the queue: unless the store refuses it for a while, nothing that this
                # mastership commits comes before its record.
                tasks.create_task(self._record_accession())
                tasks.create_task(self.ledger.run())
                tasks.create_task(self.sessions.run())
                tasks.create_task(self.operations.run())
                if self._tenure is not None:
                    tasks.create_task(self._tenure.run())
                tasks.create_task(self.locks.run())
                if self._voter_keeping is not None:
                    tasks.create_task(self._voter_keeping.run())
                if self._etcd_upkeep is not None:
                    tasks.create_task(self._etcd_upkeep.run())
                if self.in_step is not None:
                    tasks.create_task(self.in_step.run())
                if self._shared_store is None or self.state.pool.voters is not None:
                    tasks.create_task(self._steward.run())
        except BaseExceptionGroup as group:
            # The other parts may fail as well, of the ledger's end; only that is the cause.
            ended = group.subgroup(SteppedDown)
            if ended is None:
                raise
            raise SteppedDown(str(ended.exceptions[0])) from group

    async def _record_accession(self) -> None:
        """Commit that this mastership has begun; a pool of one that is reserved, once it is not."""
        now = self.clock.now()

        def decide(state: State) -> Decision:
            term = self.ledger.head.term
            changes = began(state, term=term, host=self.host, now=now, why=self.why)
            if self.in_step is None and state.pool.in_step is not None:
                # Everybody reaches this store: nobody has a second copy.
                changes = (*changes, Put(replace(state.pool, in_step=None, was_in_step=None)))
            return Decision(changes)

        while True:
            try:
                await self.ledger.insist(_unless_reserved(decide))
            except PoolError as error:
                if error.reason is not Reason.POOL_RESERVED:
                    raise
            else:
                return
            while self.state.pool.reservation is not None:
                await self.ledger.feed.wait(self.state.revision)

    async def fresh(self) -> State:
        """The state, confirmed to be the newest after this was called."""
        await self.ledger.confirm()
        return self.ledger.state

    async def write(
        self, decide: Decide, *, request: Request | None = None, while_reserved: bool = False
    ) -> Outcome:
        """Commit a decision; `POOL_RESERVED` while this pool of one is being taken in."""
        decision = decide if while_reserved else _unless_reserved(decide)
        return await self.ledger.write(decision, request=request)

    def submit(self, decide: Decide, *, request: Request | None = None) -> PendingWrite:
        """Begin to commit a decision, as `write` does; the ledger tells the outcome."""
        return self.ledger.submit(_unless_reserved(decide), request=request)

    async def _nonce(self) -> str:
        try:
            found = await self.store.read(NONCE)
        except StoreError as error:
            # If the mastership is over, the ledger finds out with whatever is written next.
            raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
        return found.items[0].value.decode()

    def now(self) -> datetime:
        """The time of day."""
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self.clock.sleep(seconds)

    def reached(self, point: str) -> None:
        """Told after each recorded step."""
        log.debug("reached %s", point)
        self._reached(point)


def _unless_reserved(decide: Decide) -> Decide:
    def guarded(state: State) -> Decision:
        reservation = state.pool.reservation
        if reservation is not None:
            raise PoolError(Reason.POOL_RESERVED, pool_name=reservation.pool_name)
        return decide(state)

    return guarded
