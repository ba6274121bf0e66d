"""Locks that span the pool, held for as long as a block of code runs.

The holder renews its lock in the background, three times in its time to live. It takes the lock for
lost when the pool says so, or when the time to live has passed since it sent the last renewal that
was answered; the pool waits at least that long before it gives the lock to somebody else. That is
measured on this machine's monotonic clock, which stands still while the machine is suspended: what
really keeps two holders apart is the token, checked by whatever the lock protects.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self

from poolclient._core import Core
from poolclient._deadline import Deadline
from poolclient._errors import Conflict, HistoryGone, LockHeld, LockLost, NoMaster, PoolClientError
from poolclient._events import events
from poolclient._freshness import Cursor
from poolclient._owned import OwnedTasks
from poolclient._writes import new_request_id
from poolcore.errors import Reason
from poolcore.model import Kind, Lock
from poolcore.replica import Remove
from poolcore.wire.codec import from_proto
from poolmanager.v1 import lock_service_pb2, pool_service_pb2

RENEWALS = 3
"""How often a lock is renewed within its time to live."""
_HELD_UP = "this program was held up for so long"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
"""Between a renewal that failed and the next: the first pause, and what it grows to."""


def default_holder() -> str:
    """Who holds what this process locks: `USER@HOST`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name; which of the two depends on the release
        user = "?"
    return f"{user}@{socket.gethostname()}"


async def release(core: Core, uuid: str, timeout_seconds: float | None = None) -> None:
    """Give the lock of that uuid up; `LockLost` when it is gone already."""
    deadline = core.deadline(timeout_seconds)
    request = lock_service_pb2.ReleaseLockRequest(
        request_id=new_request_id(core.transport), lock=uuid
    )
    answer = await core.transport.write(
        lambda c: c.lock.ReleaseLock, request, deadline, request.request_id
    )
    await core.transport.written(answer.incarnation, answer.revision, deadline)


class PoolLock:
    """A lock, taken and given up by `async with pool.lock(...) as lock`.

    When it is lost meanwhile, the block is cancelled, and leaving it raises `LockLost`. Each can be
    entered once.
    """

    def __init__(
        self,
        core: Core,
        name: str,
        *,
        ttl_seconds: int,
        wait_seconds: float | None,
        holder: str | None,
        request_id: str | None,
        on_held: Callable[[LockHeld], None] | None,
    ) -> None:
        self._core = core
        self._wait_seconds = wait_seconds
        self._on_held = on_held
        self._request = lock_service_pb2.AcquireLockRequest(
            request_id=request_id,
            name=name,
            holder=default_holder() if holder is None else holder,
            ttl_seconds=ttl_seconds,
        )
        self._lock: Lock | None = None
        self._renewing = OwnedTasks()
        self._valid_until = 0.0
        self._body: asyncio.Task[Any] | None = None
        self._cancelled_by_others = 0
        self.lost: LockLost | None = None
        """Why the lock is lost; none as long as it is held."""
        self.released = False
        """Whether it was given up in the end; if not, the pool does it after its time to live."""

    @property
    def lock(self) -> Lock:
        """The lock as the pool has it."""
        if self._lock is None:
            raise RuntimeError("take the lock first: `async with pool.lock(...) as lock`")
        return self._lock

    @property
    def token(self) -> int:
        """The fencing token: higher than that of any earlier holder."""
        return self.lock.token

    def check(self) -> None:
        """Raise `LockLost` if the lock is lost."""
        if self.lost is not None:
            raise self.lost

    # -- taking and giving up ---------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.acquire()
        self._body = asyncio.current_task()
        self._cancelled_by_others = self._body.cancelling() if self._body is not None else 0
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        body, self._body = self._body, None
        lost = self.lost
        if lost is None:
            try:
                await self.release()
            except LockLost:
                if kind is None:
                    raise
            return
        cancelled = body.uncancel() if body is not None else 0
        await self._renewing.close()
        ours = kind is asyncio.CancelledError and cancelled <= self._cancelled_by_others
        if kind is None or ours:
            raise lost from error

    async def acquire(self) -> None:
        """Take the lock; `LockHeld` when somebody has it, and still has when waiting is over."""
        if self._lock is not None:
            raise RuntimeError("a lock can be taken only once; ask for it anew")
        try:
            await self._attempt()
        except LockHeld as held:
            if not self._wait_seconds:
                raise
            if self._on_held is not None:
                self._on_held(held)
            await self._awaited(self._wait_seconds, held)
        self._renewing.start(self._keep())

    async def release(self) -> None:
        """Give the lock up; `LockLost` when it was lost meanwhile.

        That no master can be reached raises nothing: the lock then ends after its time to live.
        """
        await self._renewing.close()
        self.check()
        try:
            await release(self._core, self.lock.uuid)
        except LockLost as lost:
            self.lost = self._named(lost)
            raise self.lost from None
        except PoolClientError:
            return
        self.released = True

    async def _attempt(self) -> None:
        sent = asyncio.get_running_loop().time()
        async with OwnedTasks() as owned:
            asking = owned.task(self._taken())
            try:
                self._lock = await asyncio.shield(asking)
            except asyncio.CancelledError:
                # It may be taken by now, or be taken any moment; nobody would ever use it.
                with suppress(PoolClientError):
                    await release(self._core, (await asking).uuid)
                raise
        self._valid_until = sent + self.lock.ttl_seconds

    async def _taken(self) -> Lock:
        request = lock_service_pb2.AcquireLockRequest()
        request.CopyFrom(self._request)
        if not request.HasField("request_id"):
            request.request_id = new_request_id(self._core.transport)
        deadline = self._core.deadline(None)
        answer = await self._core.transport.write(
            lambda c: c.lock.AcquireLock, request, deadline, request.request_id
        )
        # It is taken, whatever becomes of finding out where in the pool's history that was.
        with suppress(PoolClientError):
            await self._core.transport.written(answer.incarnation, answer.revision, deadline)
        lock: Lock = from_proto(answer.lock)
        return lock

    async def _awaited(self, seconds: float, why: PoolClientError) -> None:
        """Take the lock as soon as it is free, or raise `why` it could not be taken last."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        # From before the attempt, so that no release after it is missed.
                        since = await self._now()
                        try:
                            return await self._attempt()
                        except LockHeld as error:
                            why = error
                        with suppress(HistoryGone, Conflict):
                            await self._until_released(since)
                    except NoMaster as error:
                        why = error
                        await asyncio.sleep(LONGEST_PAUSE_SECONDS)
        except TimeoutError:
            raise why from None

    async def _now(self) -> Cursor:
        _, freshness = await self._core.transport.read(
            lambda c: c.pool.GetPool, pool_service_pb2.GetPoolRequest(), self._core.deadline(None)
        )
        return Cursor(freshness.incarnation, freshness.revision)

    async def _until_released(self, since: Cursor) -> None:
        """Until some lock was given up after `since`."""
        stream = events(
            self._core.transport,
            since=since,
            kinds=(Kind.LOCK,),
            connect_seconds=self._core.timeout_seconds,
        )
        async with aclosing(stream):
            async for event in stream:
                if any(isinstance(change, Remove) for change in event.changes):
                    return

    # -- renewing ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        try:
            lost = await self._renewed_to_the_end()
        except Exception as error:
            # Whatever it is: nobody renews any more, and the holder must not go on unawares.
            lost = LockLost(Reason.LOCK_LOST, lock=self.lock.name_label, problem=str(error))
        self.lost = lost
        if self._body is not None:
            self._body.cancel()

    async def _renewed_to_the_end(self) -> LockLost:
        """Renew the lock for as long as that goes well; why it is lost."""
        clock = asyncio.get_running_loop().time
        interval = self.lock.ttl_seconds / RENEWALS
        request = lock_service_pb2.RenewLockRequest(lock=self.lock.uuid)
        problem, pause = _HELD_UP, FIRST_PAUSE_SECONDS
        await asyncio.sleep(interval)
        while (left := self._valid_until - clock()) > 0:
            sent = clock()
            try:
                await self._core.transport.ask(
                    lambda c: c.lock.RenewLock, request, Deadline.after(min(interval, left))
                )
            except LockLost as lost:
                return self._named(lost)
            except PoolClientError as error:
                problem = error.message.rstrip(".")
                await asyncio.sleep(min(pause, max(0.0, self._valid_until - clock())))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._valid_until = sent + self.lock.ttl_seconds
                problem, pause = _HELD_UP, FIRST_PAUSE_SECONDS
                await asyncio.sleep(interval - (clock() - sent))
        return self._named(problem=f"it could not be renewed in time ({problem})")

    def _named(self, lost: LockLost | None = None, *, problem: str = "") -> LockLost:
        """The error with the lock's name rather than its uuid."""
        problem = problem or (lost.params.get("problem", "") if lost is not None else "")
        return LockLost(Reason.LOCK_LOST, lock=self.lock.name_label, problem=problem)
