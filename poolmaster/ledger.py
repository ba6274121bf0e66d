"""The single writer: gathers concurrent writes into one transaction, one batch in flight.

The rules it keeps (design §4.1, §4.2, §4.5):

* Every transaction compares `head` with what this master last saw. Whoever moved `head` in between
  makes it fail, and this master steps down; no clock and no lease takes part.
* Nothing is answered, published or visible to a read before its transaction is known to be
  applied. An answer that needs no transaction (nothing to change, refused) waits for a read of
  `head` that shows it still ours.
* An outcome that is not known is settled before the next write: by reading `head` and, while it
  has not moved, sending the very same transaction again. Only one of the two can pass the compare.
* A request id that was executed is answered with its first outcome.
* Where a second copy is kept in step, nothing is answered, published or visible to a read before
  that copy has it, or a further commit says that it is not in step any more (design §4.3).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import HostId
from poolcore.replica import Delta, Head, State
from poolcore.wire.chain import decode_delta
from poolmaster.batch import (
    BATCH_WRITES,
    Batch,
    Decide,
    Decision,
    Outcome,
    PendingWrite,
    Request,
    executed,
)
from poolmaster.feed import Commit, Feed
from poolmaster.layout import log_key, read_head
from poolmaster.store.contract import (
    Compare,
    OutcomeUnknown,
    Store,
    StoreError,
    StoreFailed,
    StoreUnavailable,
    TransactionTooLarge,
    Write,
)

__all__ = ["Decide", "Decision", "Ledger", "Outcome", "PendingWrite", "Request", "SteppedDown"]

log = logging.getLogger(__name__)

SETTLE_RETRY = timedelta(milliseconds=100)
STORE_RETRY = timedelta(seconds=1)


class SteppedDown(Exception):
    """This mastership is over: somebody else moved `head`, or the store failed."""


class SecondCopy(Protocol):
    """A replica that is to have what is committed before that is acknowledged."""

    async def has(self, state: State) -> bool:
        """Whether it has come to `state`, which is committed and was offered; waits for it."""
        ...

    def without(self, state: State) -> Decision:
        """The commit that says that from now on there is none."""
        ...


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
        self._queue: deque[PendingWrite] = deque()
        self._arrived = asyncio.Event()
        self._together = BATCH_WRITES
        """How many writes go into a transaction: fewer after one that was too large."""
        self._writing = asyncio.Lock()
        """Held while a batch is under way, or writes are made to wait."""
        self._told_to_end = asyncio.Event()
        self._readers: list[asyncio.Future[None]] = []
        self._reader_arrived = asyncio.Event()
        self._shown = asyncio.Event()
        """Set when the state that this mastership began with may be shown and answered from."""
        self._over: str | None = None
        self._concluded: Head | None = None
        """What the register is after this store's last commit, if that was tried."""
        self.confirmed_at = clock.monotonic()
        """On the monotonic clock: since then nobody else had moved `head`, as far as is known."""
        self.feed = Feed(store, head.revision)
        self.second_copy: SecondCopy | None = None
        """None where the store alone is as safe as can be."""

    @property
    def state(self) -> State:
        """The newest acknowledged state."""
        return self._state

    @property
    def head(self) -> Head:
        """The register as of the newest acknowledged commit."""
        return self._head

    @property
    def heir(self) -> HostId | None:
        """The host that is to found the successor of this store, once that is decided."""
        return None if self._concluded is None else self._concluded.master

    async def write(self, decide: Decide, *, request: Request | None = None) -> Outcome:
        """Commit what `decide` decides; returns when that is durable.

        Raises what `decide` raises, `STORE_UNAVAILABLE` or `NO_MASTER` when it was certainly not
        committed, `OUTCOME_UNKNOWN` when that is not known. A cancelled caller's write is dropped
        if it has not been taken up yet, and otherwise goes on.
        """
        return await self.outcome(self.submit(decide, request=request))

    def submit(self, decide: Decide, *, request: Request | None = None) -> PendingWrite:
        """Begin a write as `write` does, without waiting: for callers that have many.

        Its outcome has to be asked for. Cancelling its answer is what cancels the caller.
        """
        if self._over is not None:
            raise self._not_master()
        pending = PendingWrite(decide, request, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._arrived.set()
        return pending

    async def insist(self, decide: Decide) -> Outcome:
        """Commit what nobody else will ask for again, for as long as the store refuses it.

        Raises as `write` does, but for `STORE_UNAVAILABLE`.
        """
        while True:
            try:
                return await self.write(decide)
            except PoolError as error:
                if error.reason is not Reason.STORE_UNAVAILABLE:
                    raise
            await self._clock.sleep(STORE_RETRY.total_seconds())

    async def outcome(self, pending: PendingWrite) -> Outcome:
        """What became of a write that was begun; raises as `write` does."""
        outcome = await pending.answer
        if outcome.repeated and pending.request is not None:
            return await self._first_outcome(pending.request, outcome.revision)
        return outcome

    async def first_outcome(self, request: Request) -> Outcome | None:
        """What a request became when it was executed before; none if it was not, so far."""
        await self._shown.wait()
        if self._over is not None:
            raise self._not_master()
        record = executed(self._state, request)
        return None if record is None else await self._first_outcome(request, record.revision)

    async def confirm(self) -> Head:
        """A barrier for reads: returns when `head` was read after this call and is still ours.

        One read serves everybody who asked before it was sent. `NO_MASTER` when it is not ours.
        """
        await self._shown.wait()
        return await self.ours()

    async def ours(self) -> Head:
        """As `confirm`, but what the second copy lacks of the state may be there already.

        For members: one of them has to be fed that before it can be shown to others.
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
                tasks.create_task(self._end_when_told())
        except BaseExceptionGroup as group:
            ended = group.subgroup(SteppedDown)
            if ended is None:
                raise
            raise SteppedDown(str(ended.exceptions[0])) from group
        finally:
            self._end()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[Head]:
        """Writes wait while the block runs; the head that they wait behind."""
        async with self._writing:
            yield self._head

    async def conclude(self, delta: Delta) -> Commit:
        """Make `delta` the last commit of this store, which names the store's successor.

        To be called while writes wait (`paused`). It is neither published nor visible to reads:
        it may yet be withdrawn, by another mastership than this one, which is to step down.
        """
        if self._over is not None:
            # Otherwise the heir of this commit would be told of another one that was the last.
            raise self._not_master()
        batch = Batch(self._head, self._state)
        batch.conclude(delta)
        self._concluded = batch.head
        try:
            await self._commit(batch)
        except PoolError:
            self._concluded = None
            raise
        except SteppedDown as error:
            self.step_down(str(error))
            raise self._not_master() from error
        return batch.commits[0]

    def step_down(self, why: str) -> None:
        """End this mastership; what waits is answered as not done."""
        self._over = why
        self._told_to_end.set()

    async def _end_when_told(self) -> None:
        await self._told_to_end.wait()
        raise SteppedDown(self._over)

    # -- writing ----------------------------------------------------------------------------------

    async def _write_loop(self) -> None:
        async with self._writing:
            await self._copy_the_beginning()
            self._shown.set()
        while True:
            await self._arrived.wait()
            async with self._writing:
                if self._over is not None:
                    # What would be sent now could only fail, and be cancelled before that is known.
                    raise SteppedDown(self._over)
                await self._next_batch()

    async def _next_batch(self) -> None:
        batch = self._gathered()
        try:
            await self._carry_out(batch)
        except PoolError as failure:
            batch.tell(failure)
        except TransactionTooLarge as error:
            self._gather_fewer(batch, error)
        except BaseException:
            # Whatever it was, even the end of the daemon: nobody knows whether it landed.
            unknown = PoolError(Reason.OUTCOME_UNKNOWN)
            batch.tell(unknown if batch.commits else self._not_master())
            raise
        else:
            batch.tell()

    def _gathered(self) -> Batch:
        """The writes that wait, as far as they go together."""
        batch = Batch(self._head, self._state)
        while self._queue and batch.has_room(self._together):
            pending = self._queue.popleft()
            if not pending.answer.done():
                batch.add(pending)
        if not self._queue:
            self._arrived.clear()
        return batch

    def _gather_fewer(self, batch: Batch, error: TransactionTooLarge) -> None:
        """Decide the writes of a batch that is too large anew; a commit is never split."""
        if len(batch.commits) == 1:
            batch.refuse_changes(PoolError(Reason.REQUEST_TOO_LARGE, problem=str(error)))
        self._together = max(len(batch.commits) // 2, 1)
        self._queue.extendleft(reversed(batch.taken))
        self._arrived.set()

    async def _carry_out(self, batch: Batch) -> None:
        """Make what the batch comes to true; its callers may be told when this returns.

        Raises a `PoolError` or `TransactionTooLarge` when certainly nothing was written,
        `SteppedDown` when this mastership is over.
        """
        if batch.commits:
            await self._commit(batch)
            await self._copy(batch)
            self._together = min(2 * self._together, BATCH_WRITES)
            return
        try:
            await self._ensure_ours()
        except StoreUnavailable as error:
            raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error

    async def _copy(self, batch: Batch) -> None:
        """Have the second copy take a batch that is committed, or commit that there is none."""
        copy = self.second_copy
        if copy is None:
            self._accept(batch)
            return
        self.feed.offer(batch.commits)
        if not await copy.has(batch.state):
            alone = self._alone(copy, batch.head, batch.state)
            await self._insist_on(alone)
            self._accept(batch)
            batch = alone
        self._accept(batch)

    async def _copy_the_beginning(self) -> None:
        """What the mastership before this one committed last may be in the store alone."""
        copy = self.second_copy
        if copy is not None and not await copy.has(self._state):
            alone = self._alone(copy, self._head, self._state)
            await self._insist_on(alone)
            self._accept(alone)

    def _alone(self, copy: SecondCopy, head: Head, state: State) -> Batch:
        """The commit that says that there is no second copy from now on."""
        batch = Batch(head, state)
        batch.add(PendingWrite(copy.without, None, asyncio.get_running_loop().create_future()))
        return batch

    async def _insist_on(self, batch: Batch) -> None:
        """Commit a batch for as long as the store refuses it: others wait for it to be there."""
        while True:
            try:
                await self._commit(batch)
            except PoolError as error:
                if error.reason is not Reason.STORE_UNAVAILABLE:
                    raise
            else:
                return
            await self._clock.sleep(STORE_RETRY.total_seconds())

    def _accept(self, batch: Batch) -> None:
        """A batch has been applied: from now on it is what everybody sees."""
        self._state, self._head = batch.state, batch.head
        self.feed.publish(batch.commits)

    async def _commit(self, batch: Batch) -> None:
        """Apply the batch's transaction; returns when it is known to be applied."""
        compares, writes = batch.compares(), batch.writes()
        began = self._clock.monotonic()
        try:
            applied = await self._store.transact(compares, writes)
        except OutcomeUnknown:
            await self._settle(batch, compares, writes)
            return
        except StoreUnavailable as error:
            raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
        except StoreFailed as error:
            raise SteppedDown(f"the store failed: {error}") from error
        if not applied:
            batch.tell(self._not_master())
            raise SteppedDown("somebody else moved head")
        self.confirmed_at = max(self.confirmed_at, began)

    async def _settle(self, batch: Batch, compares: list[Compare], writes: list[Write]) -> None:
        """Find out what became of a transaction before anything else is written."""
        log.warning("the outcome of revision %d is not known; asking", batch.head.revision)
        while True:
            try:
                if await self._has_landed(batch, compares, writes):
                    return
            except StoreFailed as error:
                raise SteppedDown(f"the store failed: {error}") from error
            except StoreError:
                # Whatever this attempt came to, the first one may still land.
                await self._clock.sleep(SETTLE_RETRY.total_seconds())

    async def _has_landed(self, batch: Batch, compares: list[Compare], writes: list[Write]) -> bool:
        """Whether the batch has been applied by now; raises when that can still not be told."""
        head = await read_head(self._store)
        if head == batch.head:
            return True
        if head == batch.before:
            # Not so far. The same again: the compare lets only one of the two pass.
            if await self._store.transact(compares, writes):
                return True
            if await read_head(self._store) == head:
                raise SteppedDown("the store remembers requests that this master does not")
            return False
        if head is None:
            raise SteppedDown("the store is empty")
        await self._tell_fate(batch, head)
        raise SteppedDown("somebody else moved head")

    async def _tell_fate(self, batch: Batch, head: Head) -> None:
        """Tell the callers of a batch whether it came before somebody else moved `head`."""
        first = batch.commits[0]
        if head.revision >= first.revision:
            found = await self._store.read(log_key(first.revision))
            if not found.items:
                return  # The history does not reach back so far: it stays unknown.
            if found.items[0].value == first.data:
                batch.tell()
                return
        batch.tell(self._not_master())

    async def _first_outcome(self, request: Request, revision: int) -> Outcome:
        try:
            found = await self._store.read(log_key(revision))
        except (StoreUnavailable, StoreFailed) as error:
            # It was executed; what it came to cannot be said just now.
            raise PoolError(Reason.OUTCOME_UNKNOWN) from error
        if not found.items:
            oldest = str(self._state.revision - self._state.history_revisions + 1)
            raise PoolError(Reason.REQUEST_TOO_OLD, request_id=request.id, oldest=oldest)
        data = found.items[0].value
        return Outcome(revision, decode_delta(data), data=data, repeated=True)

    # -- confirming -------------------------------------------------------------------------------

    async def _confirm_loop(self) -> None:
        while True:
            await self._reader_arrived.wait()
            self._reader_arrived.clear()
            readers, self._readers = self._readers, []
            try:
                await self._ensure_ours()
            except StoreUnavailable as error:
                problem = PoolError(Reason.NO_MASTER, host="the master", problem=str(error))
                for reader in readers:
                    if not reader.done():
                        reader.set_exception(problem)
            except BaseException:
                # The mastership has ended, here or in the writer's loop: `_end` tells them.
                self._readers += readers
                raise
            else:
                for reader in readers:
                    if not reader.done():
                        reader.set_result(None)

    async def _ensure_ours(self) -> None:
        """Return when `head` was read and is still ours.

        Raises `StoreUnavailable` when it cannot be read now, else `SteppedDown`.
        """
        began = self._clock.monotonic()
        try:
            head = await read_head(self._store)
        except StoreFailed as error:
            raise SteppedDown(f"the store failed: {error}") from error
        if head is not None and head == self._concluded:
            # Readers wait with the writers: somebody else may have written already.
            await self._told_to_end.wait()
        ours = self._head
        if head is None or (head.incarnation, head.term) != (ours.incarnation, ours.term):
            raise SteppedDown("somebody else moved head")
        self.confirmed_at = max(self.confirmed_at, began)

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
            if not pending.answer.done():
                pending.answer.set_exception(self._not_master())
        self._queue.clear()
        for reader in self._readers:
            if not reader.done():
                reader.set_exception(self._not_master())
        self._readers.clear()
        self._shown.set()
        self.feed.close(self._not_master())
