"""The single writer: gathers concurrent writes into one transaction, one batch in flight.

The rules it keeps (design §4.1, §4.2, §4.5):

* Every transaction compares `head` with what this master last saw. Whoever moved `head` in between
  makes it fail, and this master steps down; no clock and no lease takes part.
* Nothing is answered, published or visible to a read before its transaction is known to be
  applied.
* An outcome that is not known is settled before the next write: by reading `head` and, while it
  has not moved, sending the very same transaction again. Only one of the two can pass the compare.
* A request id that was executed is answered with its first outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.replica import Change, CommitId, Delta, Head, State, apply
from poolcore.requests import RequestRecord
from poolcore.wire.chain import decode_delta, encode_delta
from poolmaster.feed import Commit, Feed
from poolmaster.layout import (
    HEAD,
    commit_writes,
    encode_head,
    log_key,
    read_head,
    request_key,
)
from poolmaster.store.contract import (
    Compare,
    OutcomeUnknown,
    Store,
    StoreFailed,
    StoreUnavailable,
    TransactionTooLarge,
    Write,
)

log = logging.getLogger(__name__)

BATCH_WRITES = 256
BATCH_BYTES = 1024 * 1024
SETTLE_RETRY = timedelta(milliseconds=100)


class SteppedDown(Exception):
    """This mastership is over: somebody else moved `head`, or the store failed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a write comes to: the changes, and whatever its caller wants to know."""

    changes: tuple[Change, ...]
    result: Any = None


Decide = Callable[[State], Decision]
"""Pure; sees the state right before its own commit, raises `PoolError` to refuse."""


@dataclass(frozen=True, slots=True)
class Request:
    """A write's id and the hash of its payload."""

    id: str
    payload_hash: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a write became. `delta` is none when nothing had to be changed."""

    revision: int
    delta: Delta | None
    result: Any = None
    repeated: bool = False
    """Whether it was done before, by the same request id; `result` is none then."""


@dataclass(slots=True)
class _Pending:
    decide: Decide
    request: Request | None
    answer: asyncio.Future[Outcome]


@dataclass(slots=True)
class _Plan:
    """One transaction: what it does, and who is to be told what when it has been applied."""

    state: State
    head: Head
    commits: list[Commit] = field(default_factory=list)
    compares: dict[bytes, Compare] = field(default_factory=dict)
    writes: dict[bytes, Write] = field(default_factory=dict)
    size: int = 0
    answers: list[tuple[asyncio.Future[Outcome], Outcome]] = field(default_factory=list)


class Ledger:
    """The chain of commits of one mastership.

    `run` is the writer's loop; it ends only by `SteppedDown`, with every write in flight answered
    as unknown or not done, as it is.
    """

    def __init__(self, store: Store, head: Head, state: State, *, clock: Clock) -> None:
        self._store = store
        self._head = head
        self._state = state
        self._clock = clock
        self._queue: deque[_Pending] = deque()
        self._arrived = asyncio.Event()
        self._readers: list[asyncio.Future[None]] = []
        self._reader_arrived = asyncio.Event()
        self._over: str | None = None
        self.feed = Feed(store, head.revision)

    @property
    def state(self) -> State:
        """The newest acknowledged state."""
        return self._state

    @property
    def head(self) -> Head:
        """The register as of the newest acknowledged commit."""
        return self._head

    async def write(self, decide: Decide, *, request: Request | None = None) -> Outcome:
        """Commit what `decide` decides; returns when that is durable.

        Raises what `decide` raises, `STORE_UNAVAILABLE` or `NO_MASTER` when it was certainly not
        committed, `OUTCOME_UNKNOWN` when that is not known. A cancelled caller's write is dropped
        if it has not been taken up yet, and otherwise goes on.
        """
        if self._over is not None:
            raise self._not_master()
        pending = _Pending(decide, request, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._arrived.set()
        outcome = await pending.answer
        if outcome.repeated:
            return await self._first_outcome(outcome.revision)
        return outcome

    async def confirm(self) -> Head:
        """A barrier for reads: returns when `head` was read after this call and is still ours.

        One read serves everybody who asked before it was sent. `NO_MASTER` when it is not ours.
        """
        if self._over is not None:
            raise self._not_master()
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(waiting)
        self._reader_arrived.set()
        await waiting
        return self._head

    async def run(self) -> None:
        """The writer's loop and the readers' barrier, until `SteppedDown`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write_loop())
                tasks.create_task(self._confirm_loop())
        except BaseExceptionGroup as group:
            ended = group.subgroup(SteppedDown)
            if ended is None:
                raise
            raise SteppedDown(str(ended.exceptions[0])) from group
        finally:
            self._end()

    # -- writing ----------------------------------------------------------------------------------

    async def _write_loop(self) -> None:
        while True:
            await self._arrived.wait()
            plan = self._plan()
            failure: PoolError | None = None
            try:
                if plan.commits:
                    await self._commit(plan)
                    self._state, self._head = plan.state, plan.head
                    self.feed.publish(plan.commits)
            except PoolError as error:
                failure = error
            except BaseException:
                # Whatever it was, even the end of the daemon: nobody knows whether it landed.
                self._tell(plan, PoolError(Reason.OUTCOME_UNKNOWN))
                raise
            self._tell(plan, failure)

    def _tell(self, plan: _Plan, failure: PoolError | None) -> None:
        """Answer the callers of a plan: with their outcomes, or with what went wrong."""
        for answer, outcome in plan.answers:
            # Known already: what was committed before this plan and only asked about again.
            if failure is None or outcome.revision <= self._head.revision:
                _answer(answer, outcome)
            else:
                _fail(answer, failure)

    def _plan(self) -> _Plan:
        """Decide the writes that wait, each on the state that the one before it leaves."""
        plan = _Plan(self._state, self._head)
        while self._queue and len(plan.commits) < BATCH_WRITES and plan.size < BATCH_BYTES:
            pending = self._queue.popleft()
            if pending.answer.done():
                continue
            try:
                self._add(plan, pending)
            except PoolError as error:
                _fail(pending.answer, error)
            except Exception as error:
                # A bug in one decision must not take the mastership with it.
                log.exception("a decision failed")
                _fail(pending.answer, error)
        if not self._queue:
            self._arrived.clear()
        return plan

    def _add(self, plan: _Plan, pending: _Pending) -> None:
        state = plan.state
        record = None
        revision = state.revision + 1
        if pending.request is not None:
            first = state.requests.first_outcome(
                pending.request.id,
                pending.request.payload_hash,
                last_revision=state.revision,
                length=state.history_revisions,
            )
            if first is not None:
                plan.answers.append((pending.answer, Outcome(first.revision, None, repeated=True)))
                return
            record = RequestRecord(pending.request.id, pending.request.payload_hash, revision)
        decision = pending.decide(state)
        if not decision.changes and record is None:
            plan.answers.append((pending.answer, Outcome(state.revision, None, decision.result)))
            return
        delta = Delta(
            incarnation=state.incarnation.uuid,
            commit=CommitId(plan.head.term, revision),
            predecessor=state.last,
            changes=decision.changes,
            request=record,
        )
        data = encode_delta(delta)
        if len(data) > BATCH_BYTES:
            raise PoolError(Reason.REQUEST_TOO_LARGE, limit=str(BATCH_BYTES))
        plan.state = apply(state, delta)
        plan.head = replace(plan.head, revision=revision)
        plan.commits.append(Commit(delta, data))
        plan.writes |= commit_writes(state, delta, data)
        plan.size += len(data)
        if record is not None:
            key = request_key(record.id)
            plan.compares[key] = Compare(key, None)
        plan.answers.append((pending.answer, Outcome(revision, delta, decision.result)))

    async def _commit(self, plan: _Plan) -> None:
        """Apply the plan's transaction; returns when it is known to be applied.

        Raises a `PoolError` when it certainly was not, `SteppedDown` when this mastership is over.
        """
        compares = [Compare(HEAD, encode_head(self._head)), *plan.compares.values()]
        writes = [Write(HEAD, encode_head(plan.head)), *plan.writes.values()]
        try:
            applied = await self._store.transact(compares, writes)
        except OutcomeUnknown:
            await self._settle(plan, compares, writes)
            return
        except StoreUnavailable as error:
            raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
        except TransactionTooLarge as error:
            raise PoolError(Reason.REQUEST_TOO_LARGE, limit=str(error)) from error
        except StoreFailed as error:
            raise SteppedDown(f"the store failed: {error}") from error
        if not applied:
            self._refuse_all(plan)
            raise SteppedDown("somebody else moved head")

    async def _settle(self, plan: _Plan, compares: list[Compare], writes: list[Write]) -> None:
        """Find out what became of a transaction before anything else is written."""
        log.warning("the outcome of revision %d is not known; asking", plan.head.revision)
        while True:
            try:
                head = await read_head(self._store)
                if head == self._head:
                    # It has not landed. The same again: the compare lets only one of them pass.
                    if await self._store.transact(compares, writes):
                        return
                    if await read_head(self._store) == head:
                        raise SteppedDown("the store remembers requests that this master does not")
                    continue
                if await self._is_in_log(plan):
                    if head != plan.head:
                        raise SteppedDown("somebody else moved head after our last commit")
                    return
            except (OutcomeUnknown, StoreUnavailable):
                await self._clock.sleep(SETTLE_RETRY.total_seconds())
                continue
            except StoreFailed as error:
                raise SteppedDown(f"the store failed: {error}") from error
            self._refuse_all(plan)
            raise SteppedDown("somebody else moved head")

    async def _is_in_log(self, plan: _Plan) -> bool:
        first = plan.commits[0]
        found = await self._store.read(log_key(first.revision))
        return bool(found.items) and found.items[0].value == first.data

    def _refuse_all(self, plan: _Plan) -> None:
        for answer, _ in plan.answers:
            _fail(answer, self._not_master())

    async def first_outcome(self, request: Request) -> Outcome | None:
        """What a request became when it was executed before; none if it was not, so far."""
        if self._over is not None:
            raise self._not_master()
        record = self._state.requests.first_outcome(
            request.id,
            request.payload_hash,
            last_revision=self._state.revision,
            length=self._state.history_revisions,
        )
        return None if record is None else await self._first_outcome(record.revision)

    async def _first_outcome(self, revision: int) -> Outcome:
        found = await self._store.read(log_key(revision))
        if not found.items:
            raise PoolError(Reason.HISTORY_GONE, since=str(revision - 1), oldest="?")
        return Outcome(revision, decode_delta(found.items[0].value), repeated=True)

    # -- confirming -------------------------------------------------------------------------------

    async def _confirm_loop(self) -> None:
        while True:
            await self._reader_arrived.wait()
            self._reader_arrived.clear()
            readers, self._readers = self._readers, []
            try:
                head = await read_head(self._store)
            except (StoreUnavailable, OutcomeUnknown) as error:
                problem = PoolError(Reason.NO_MASTER, host="the master", problem=str(error))
                for reader in readers:
                    _fail(reader, problem)
                continue
            except StoreFailed as error:
                self._readers += readers
                raise SteppedDown(f"the store failed: {error}") from error
            if head is None or (head.incarnation, head.term) != (
                self._head.incarnation,
                self._head.term,
            ):
                self._readers += readers
                raise SteppedDown("somebody else moved head")
            for reader in readers:
                _answer(reader, None)

    # -- the end ----------------------------------------------------------------------------------

    def _not_master(self) -> PoolError:
        return PoolError(
            Reason.NO_MASTER,
            host="this host",
            problem=self._over or "its mastership has just ended",
        )

    def _end(self) -> None:
        """Tell everybody who still waits; what was in flight has been told already."""
        self._over = self._over or "its mastership has ended"
        for pending in self._queue:
            _fail(pending.answer, self._not_master())
        self._queue.clear()
        for reader in self._readers:
            _fail(reader, self._not_master())
        self._readers.clear()
        self.feed.close(self._not_master())


def _answer(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
