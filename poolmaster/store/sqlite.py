"""The engine `sqlite`: one file on a local disk, for one daemon or shared by those of a machine.

Durability is SQLite's: WAL with `synchronous=FULL`, so COMMIT returns when the WAL is on the disk.
Atomicity across processes is SQLite's too: BEGIN IMMEDIATE. Who may open a file, and when it is
refused, is told in `poolmaster.store.sqlite_file`.

Two connections, two threads: transactions in one, reads in the other, which WAL lets run beside a
commit. Reads are single statements and go through aiosqlite. A transaction is *one* function in a
thread of our own, for which aiosqlite offers no public way: with a hop per statement, 65 compares
and 200 writes took 7 ms instead of 2 ms (the disk not counted), and a caller cancelled between two
statements would leave the transaction open.

**Watches** look for a new version every `POLL_SECONDS`, and at once after a transaction of the same
object. They see the newest value of each key, not those between two looks.

**Leases** are measured with CLOCK_BOOTTIME, which all processes of one machine share and which
counts the time it is suspended; a reboot ends them all. An ended lease's keys are invisible at once
and removed by the next transaction, or by a watch that notices.

What is not promised: a process that is frozen between BEGIN and COMMIT makes the others' calls
raise `StoreUnavailable` (after `busy_seconds`) until it goes on or ends. And SQLite before 3.51.3
can damage a file, rarely enough that its authors had to provoke it, when two processes move the WAL
into it at the same time as one of them commits (“WAL-reset”); a file that one daemon has to itself
is written by one connection only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from poolmaster.store.contract import (
    Compare,
    LeaseId,
    ReadResult,
    StoreFailed,
    StoreUnavailable,
    TransactionTooLarge,
    WatchEvent,
    Write,
    check_written_once,
)
from poolmaster.store.sqlite_file import (
    OpenFile,
    SqliteOptions,
    StoreIdentity,
    found_file,
    open_file,
)
from poolmaster.store.sqlite_reads import Changes, Reads
from poolmaster.store.sqlite_transactions import TransactionThread

__all__ = ["SqliteOptions", "SqliteStore"]

T = TypeVar("T")

POLL_SECONDS = 0.02
"""How often a watch looks for transactions of other processes."""

MAX_TRANSACTION_BYTES = 64 * 1024 * 1024
"""Of keys and values together; a larger transaction is refused."""


class SqliteStore:
    """A handle on a store's file; see `poolmaster.store.contract` for what is promised.

    Made by `found` or `open`, and to be closed. It belongs to the event loop that made it.
    """

    engine = "sqlite"

    def __init__(
        self,
        file: OpenFile,
        reads: Reads,
        *,
        writer: ThreadPoolExecutor,
        options: SqliteOptions,
    ) -> None:
        self.pool = file.identity.pool
        self.incarnation = file.identity.incarnation
        self._transactions = TransactionThread(file, kept_versions=options.kept_versions)
        self._reads = reads
        self._writer = writer
        self._clock = options.clock
        self._bells: set[asyncio.Event] = set()
        self._failure: str | None = None
        self._closed = asyncio.Event()
        self._closing = asyncio.Lock()
        self._released = False

    @classmethod
    async def found(
        cls,
        path: Path,
        *,
        pool: str,
        incarnation: str,
        shared: bool = False,
        options: SqliteOptions | None = None,
    ) -> SqliteStore:
        """Found an empty store at `path`, where nothing may be yet.

        `shared`: daemons of this machine may open it together; otherwise one at a time. Raises
        `PoolError`: `STATE_OF_ANOTHER_POOL` if there is something at `path`, `STATE_UNWRITABLE`,
        `STATE_ON_NETWORK_FILESYSTEM`, `STATE_IN_USE`.
        """
        identity = StoreIdentity(pool, incarnation)
        chosen = options or SqliteOptions()
        return await cls._start(
            path, lambda: found_file(path, identity, shared=shared, options=chosen), chosen
        )

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        pool: str | None,
        incarnation: str | None,
        shared: bool = False,
        options: SqliteOptions | None = None,
    ) -> SqliteStore:
        """Open the store at `path`, of this `pool` and `incarnation`; `None` takes any.

        Raises `PoolError`: `STATE_UNWRITABLE`, `STATE_ON_NETWORK_FILESYSTEM`, `STATE_CORRUPT`
        (a missing file too), `STATE_SCHEMA_TOO_NEW`, `STATE_OF_ANOTHER_POOL`, `STATE_IN_USE`; the
        file is unchanged then. Raises `StoreUnavailable` when another process keeps it locked.
        """
        chosen = options or SqliteOptions()

        def opened() -> OpenFile:
            return open_file(
                path, pool=pool, incarnation=incarnation, shared=shared, options=chosen
            )

        return await cls._start(path, opened, chosen)

    @classmethod
    async def _start(
        cls, path: Path, opened: Callable[[], OpenFile], options: SqliteOptions
    ) -> SqliteStore:
        writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store-writer")
        opening = writer.submit(opened)
        try:
            file = await asyncio.shield(asyncio.wrap_future(opening))
            reads = await Reads.connect(path, busy_seconds=options.busy_seconds)
        except BaseException:
            # A cancelled caller leaves before the file is open: it is closed behind it.
            writer.submit(_close_if_open, opening)
            writer.shutdown(wait=False)
            raise
        return cls(file, reads, writer=writer, options=options)

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        """As `Store.transact`, up to `MAX_TRANSACTION_BYTES`."""
        check_written_once(writes)
        size = sum(len(c.key) + len(c.value or b"") for c in compares)
        size += sum(len(w.key) + len(w.value or b"") for w in writes)
        if size > MAX_TRANSACTION_BYTES:
            raise TransactionTooLarge(f"{size} bytes, {MAX_TRANSACTION_BYTES} are allowed")
        conditions, changes, now = tuple(compares), tuple(writes), self._clock()
        return await self._write(lambda: self._transactions.transact(conditions, changes, now))

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        """As `Store.read`; a local read is as fresh as a linearizable one."""
        if limit is not None and limit < 1:
            raise ValueError("limit must be 1 or more")
        now = self._clock()
        return await self._read(self._reads.read(start, end, limit, now))

    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        """As `Store.watch`; of a key that changed several times between two looks, the newest."""
        seen = after_version
        with self._ringing() as bell:
            while not self._closed.is_set():
                bell.clear()
                self._ensure_not_failed()
                changes = await self._look(start, end, seen)
                seen = changes.version
                for event in changes.events:
                    yield event
                    if self._closed.is_set():
                        return
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await bell.wait()

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        """As `Store.grant_lease`."""
        now = self._clock()
        return await self._write(lambda: self._transactions.grant_lease(ttl_seconds, now))

    async def keep_alive(self, lease: LeaseId) -> bool:
        """As `Store.keep_alive`."""
        now = self._clock()
        return await self._write(lambda: self._transactions.keep_alive(lease, now))

    async def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        await self._write(lambda: self._transactions.revoke(lease))

    async def close(self) -> None:
        """As `Store.close`; may be called again, also after it was cancelled."""
        self._closed.set()
        self._ring()
        async with self._closing:
            if self._released:
                return
            # Behind whatever is in flight, each in the thread that opened it, the file's own last.
            await self._reads.close()
            loop = asyncio.get_running_loop()
            await asyncio.shield(loop.run_in_executor(self._writer, self._transactions.close))
            self._writer.shutdown(wait=False)
            self._released = True

    async def _read(self, reading: Coroutine[Any, Any, T]) -> T:
        try:
            self._ensure_usable()
            return await reading
        except StoreFailed as error:
            self._failure = str(error)
            raise
        finally:
            reading.close()

    async def _write(self, transaction: Callable[[], T]) -> T:
        self._ensure_usable()
        running = asyncio.get_running_loop().run_in_executor(self._writer, transaction)
        running.add_done_callback(self._note_failure)
        try:
            # It goes on when its caller is cancelled: nobody could stop it half way.
            return await asyncio.shield(running)
        finally:
            self._ring()

    def _note_failure(self, call: asyncio.Future[T]) -> None:
        if not call.cancelled() and isinstance(call.exception(), StoreFailed):
            self._failure = str(call.exception())

    async def _look(self, start: bytes, end: bytes, seen: int) -> Changes:
        """What changed; nothing as long as the file is locked or the store closed."""
        now = self._clock()
        try:
            changes = await self._read(self._reads.changes(start, end, seen=seen, now=now))
            if changes.lease_ended:
                await self._write(lambda: self._transactions.end_leases(now))
        except StoreUnavailable:
            return Changes((), seen, lease_ended=False)
        return changes

    @contextmanager
    def _ringing(self) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.remove(bell)

    def _ring(self) -> None:
        for bell in self._bells:
            bell.set()

    def _ensure_not_failed(self) -> None:
        if self._failure is not None:
            raise StoreFailed(self._failure)

    def _ensure_usable(self) -> None:
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        self._ensure_not_failed()


def _close_if_open(opening: Future[OpenFile]) -> None:
    if opening.exception() is None:
        opening.result().close()
