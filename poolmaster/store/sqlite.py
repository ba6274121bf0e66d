"""The engine `sqlite`: one file on a local disk, for one daemon or shared by those of a machine.

Durability is SQLite's: WAL with `synchronous=FULL`, so COMMIT returns when the WAL is on the disk.
Atomicity across processes is SQLite's too: BEGIN IMMEDIATE. Who may open a file, and when it is
refused, is told in `poolmaster.store.sqlite_file`.

Two connections, two threads: transactions in one, reads in the other, which WAL lets run beside a
commit. A transaction runs as *one* function in its thread. aiosqlite, which serves the reads (one
statement each), offers no public way to do that: a hop per statement made a transaction of 200
writes and 65 compares take several times as long, and a caller cancelled between two statements
would leave it open. So the writing thread is an executor of our own.

**Watches** look for a new version every `POLL_SECONDS`, and at once after a transaction of the same
object. They see the newest value of each key, not those between two looks.

**Leases** are measured with CLOCK_BOOTTIME, which all processes of one machine share and which
counts the time it is suspended; a reboot ends them all. An ended lease's keys are invisible at once
and removed by the next transaction, or by a watch that notices.

What is not promised: a process that is frozen between BEGIN and COMMIT makes the others' calls
raise `StoreUnavailable` (after `busy_seconds`) until it goes on or ends.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from poolmaster.store.contract import (
    Compare,
    Item,
    LeaseId,
    ReadResult,
    StoreFailed,
    StoreUnavailable,
    TransactionTooLarge,
    WatchEvent,
    WatchGone,
    Write,
    check_written_once,
)
from poolmaster.store.sqlite_file import (
    OpenFile,
    SqliteOptions,
    StoreIdentity,
    found_file,
    open_file,
    uri,
)
from poolmaster.store.sqlite_transactions import TransactionThread

__all__ = ["SqliteOptions", "SqliteStore"]

T = TypeVar("T")

POLL_SECONDS = 0.02
"""How often a watch looks for transactions of other processes."""

MAX_TRANSACTION_BYTES = 64 * 1024 * 1024
"""Of keys and values together; a larger transaction is refused."""

# One statement sees one state, so the version that a read reports comes along in each row; without
# any match there is one row without a key. Keys of an ended lease are left out.
_READ_KEY = """
SELECT state.version, kv.key, kv.value, kv.version
FROM state LEFT JOIN kv ON kv.key = :start
    AND (lease IS NULL OR EXISTS (SELECT 1 FROM lease WHERE id = kv.lease AND ends > :now))
"""
_READ_RANGE = """
SELECT state.version, kv.key, kv.value, kv.version
FROM state LEFT JOIN kv ON kv.key >= :start AND kv.key < :end
    AND (lease IS NULL OR EXISTS (SELECT 1 FROM lease WHERE id = kv.lease AND ends > :now))
ORDER BY kv.key LIMIT :limit
"""
_READ_STATE = "SELECT version, oldest, (SELECT min(ends) FROM lease) FROM state"
_READ_CHANGES = """
SELECT state.version, state.oldest, change.key, change.value, change.version
FROM state LEFT JOIN (
    SELECT key, value, version FROM kv
    WHERE version > :seen AND key >= :start AND key < :end
    UNION ALL
    SELECT key, NULL, version FROM tombstone
    WHERE version > :seen AND key >= :start AND key < :end
) AS change
ORDER BY change.version, change.key
"""


class SqliteStore:
    """A handle on a store's file; see `poolmaster.store.contract` for what is promised.

    Made by `found` or `open`, and to be closed. It belongs to the event loop that made it.
    """

    engine = "sqlite"

    def __init__(
        self,
        file: OpenFile,
        *,
        executor: ThreadPoolExecutor,
        reader: aiosqlite.Connection,
        options: SqliteOptions,
    ) -> None:
        self.pool = file.identity.pool
        self.incarnation = file.identity.incarnation
        self._thread = TransactionThread(file, kept_versions=options.kept_versions)
        self._executor = executor
        self._reader = reader
        self._clock = options.clock
        self._bells: set[asyncio.Event] = set()
        self._failure: str | None = None
        self._closed = asyncio.Event()
        self._closing = asyncio.Lock()
        self._executor_ended = False

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
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")
        opening = executor.submit(opened)
        try:
            file = await asyncio.shield(asyncio.wrap_future(opening))
            # Read only, so that closing it last could not touch the file either.
            reader = await aiosqlite.connect(
                uri(path, "ro"), uri=True, isolation_level=None, timeout=options.busy_seconds
            )
        except BaseException:
            # A cancelled caller leaves before the file is open: it is closed behind it.
            executor.submit(_close_if_open, opening)
            executor.shutdown(wait=False)
            raise
        return cls(file, executor=executor, reader=reader, options=options)

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        """As `Store.transact`, up to `MAX_TRANSACTION_BYTES`."""
        check_written_once(writes)
        size = sum(len(c.key) + len(c.value or b"") for c in compares)
        size += sum(len(w.key) + len(w.value or b"") for w in writes)
        if size > MAX_TRANSACTION_BYTES:
            raise TransactionTooLarge(f"{size} bytes, {MAX_TRANSACTION_BYTES} are allowed")
        now = self._clock()
        return await self._write(lambda: self._thread.transact(compares, writes, now))

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
        self._ensure_usable()
        values: dict[str, Any] = {"start": start, "end": end, "now": self._clock()}
        if end is None:
            rows = await self._fetch(_READ_KEY, values)
        else:
            values["limit"] = -1 if limit is None else limit + 1
            rows = await self._fetch(_READ_RANGE, values)
        more = limit is not None and len(rows) > limit
        items = (Item(*row[1:]) for row in rows[:limit] if row[1] is not None)
        return ReadResult(tuple(items), rows[0][0], more)

    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        """As `Store.watch`; of a key that changed several times between two looks, the newest."""
        seen = after_version
        with self._ringing() as bell:
            while not self._closed.is_set():
                bell.clear()
                self._ensure_not_failed()
                try:
                    events, seen = await self._changes(start, end, seen)
                except StoreUnavailable:
                    events = []
                for event in events:
                    yield event
                    if self._closed.is_set():
                        return
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await bell.wait()
                except TimeoutError:
                    continue

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        """As `Store.grant_lease`."""
        now = self._clock()
        return await self._write(lambda: self._thread.grant_lease(ttl_seconds, now))

    async def keep_alive(self, lease: LeaseId) -> bool:
        """As `Store.keep_alive`."""
        now = self._clock()
        return await self._write(lambda: self._thread.keep_alive(lease, now))

    async def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        await self._write(lambda: self._thread.revoke(lease))

    async def close(self) -> None:
        """As `Store.close`; may be called again, also after it was cancelled."""
        self._closed.set()
        self._ring()
        async with self._closing:
            await self._reader.close()
            if not self._executor_ended:
                # Behind whatever is in flight, in the thread that opened it.
                closing = asyncio.get_running_loop().run_in_executor(
                    self._executor, self._thread.close
                )
                await asyncio.shield(closing)
                self._executor.shutdown(wait=False)
                self._executor_ended = True

    async def _write(self, transaction: Callable[[], T]) -> T:
        self._ensure_usable()
        running = asyncio.get_running_loop().run_in_executor(self._executor, transaction)
        running.add_done_callback(self._ended)
        # The transaction goes on when its caller is cancelled: nobody could stop it half way.
        return await asyncio.shield(running)

    def _ended(self, transaction: asyncio.Future[T]) -> None:
        if not transaction.cancelled() and isinstance(transaction.exception(), StoreFailed):
            self._failure = str(transaction.exception())
        self._ring()

    async def _changes(self, start: bytes, end: bytes, seen: int) -> tuple[list[WatchEvent], int]:
        ((version, oldest, ends),) = await self._fetch(_READ_STATE, {})
        now = self._clock()
        if ends is not None and ends <= now:
            await self._write(lambda: self._thread.end_leases(now))
        elif seen >= max(version, oldest):
            return [], seen
        rows = await self._fetch(_READ_CHANGES, {"seen": seen, "start": start, "end": end})
        version, oldest = rows[0][:2]
        if seen < oldest:
            raise WatchGone(oldest)
        return [WatchEvent(*row[2:]) for row in rows if row[2] is not None], max(seen, version)

    async def _fetch(self, statement: str, values: dict[str, Any]) -> list[Any]:
        self._ensure_usable()
        try:
            return list(await self._reader.execute_fetchall(statement, values))
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(str(error)) from error
        except sqlite3.DatabaseError as error:
            self._failure = str(error)
            raise StoreFailed(self._failure) from error

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
