"""What the engine `sqlite` does in its writing thread: whole transactions, one after the other.

Each method is one SQLite transaction begun with BEGIN IMMEDIATE, so that what it compares cannot
change before it writes. Errors up to COMMIT undo it and are `StoreUnavailable`; an error of COMMIT,
or of undoing, leaves the outcome unknown, and everything afterwards raises `StoreFailed`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from poolmaster.store.contract import (
    Compare,
    LeaseGone,
    LeaseId,
    StoreFailed,
    StoreUnavailable,
    Write,
)
from poolmaster.store.sqlite_file import OpenFile

FORGETTING_INTERVAL = 64
"""Old removals are forgotten at each version that is a multiple of this, many at a time."""

_PUT = """
INSERT INTO kv(key, value, version, lease) VALUES (?, ?, ?, ?)
ON CONFLICT(key) DO UPDATE SET
    value = excluded.value, version = excluded.version, lease = excluded.lease
"""
_BURY = """
INSERT INTO tombstone(key, version) SELECT key, ? FROM kv WHERE key = ?
ON CONFLICT(key) DO UPDATE SET version = excluded.version
"""


class TransactionThread:
    """The transactions of one open file. All methods block; one thread calls them all.

    Moments (`now`) are in seconds of CLOCK_BOOTTIME. `kept_versions`: see `SqliteOptions`.
    """

    def __init__(self, file: OpenFile, *, kept_versions: int) -> None:
        self._file = file
        self._connection = file.connection
        self._kept_versions = kept_versions
        self._failure: str | None = None
        self._closed = False

    def transact(self, compares: Sequence[Compare], writes: Sequence[Write], now: float) -> bool:
        """As `Store.transact`."""
        with self._transaction():
            self._end_leases(now)
            if not all(self._holds(compare) for compare in compares):
                return False
            for lease in {write.lease for write in writes if write.lease is not None}:
                if not self._lease_exists(lease):
                    raise LeaseGone(f"lease {lease} has ended")
            self._write(writes)
            return True

    def end_leases(self, now: float) -> None:
        """End the leases that are over, and remove their keys."""
        with self._transaction():
            self._end_leases(now)

    def grant_lease(self, ttl_seconds: float, now: float) -> LeaseId:
        """As `Store.grant_lease`."""
        with self._transaction():
            cursor = self._connection.execute(
                "INSERT INTO lease(ttl_seconds, ends) VALUES (?, ?)",
                (ttl_seconds, now + ttl_seconds),
            )
            return LeaseId(cursor.lastrowid or 0)

    def keep_alive(self, lease: LeaseId, now: float) -> bool:
        """As `Store.keep_alive`."""
        with self._transaction():
            cursor = self._connection.execute(
                "UPDATE lease SET ends = ? + ttl_seconds WHERE id = ? AND ends > ?",
                (now, lease, now),
            )
            return cursor.rowcount == 1

    def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        with self._transaction():
            self._end_lease(lease)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._file.close()

    # -- within a transaction ---------------------------------------------------------------------

    def _holds(self, compare: Compare) -> bool:
        found = self._connection.execute("SELECT value FROM kv WHERE key = ?", (compare.key,))
        row: tuple[bytes] | None = found.fetchone()
        return (None if row is None else row[0]) == compare.value

    def _lease_exists(self, lease: LeaseId) -> bool:
        row = self._connection.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone()
        return row is not None

    def _write(self, writes: Iterable[Write]) -> None:
        (version,) = self._connection.execute("SELECT version + 1 FROM state").fetchone()
        puts = [(w.key, w.value, version, w.lease) for w in writes if w.value is not None]
        removals = [w.key for w in writes if w.value is None]
        removed = 0
        if removals:
            self._connection.executemany(_BURY, [(version, key) for key in removals])
            removed = self._connection.executemany(
                "DELETE FROM kv WHERE key = ?", [(key,) for key in removals]
            ).rowcount
        if puts:
            self._connection.executemany(_PUT, puts)
        if puts or removed:
            self._connection.execute("UPDATE state SET version = ?", (version,))
            if version % FORGETTING_INTERVAL == 0:
                self._forget(version - self._kept_versions)

    def _forget(self, version: int) -> None:
        self._connection.execute("DELETE FROM tombstone WHERE version <= ?", (version,))
        self._connection.execute("UPDATE state SET oldest = max(oldest, ?)", (version,))

    def _end_leases(self, now: float) -> None:
        ended = self._connection.execute(
            "SELECT id FROM lease WHERE ends <= ? ORDER BY ends, id", (now,)
        )
        for (lease,) in ended.fetchall():
            self._end_lease(lease)

    def _end_lease(self, lease: LeaseId) -> None:
        keys = self._connection.execute("SELECT key FROM kv WHERE lease = ?", (lease,)).fetchall()
        self._write([Write(key, None) for (key,) in keys])
        self._connection.execute("DELETE FROM lease WHERE id = ?", (lease,))

    # -- around a transaction ---------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._begin()
        try:
            self._check_machine()
            yield
        except sqlite3.Error as error:
            self._roll_back()
            raise StoreUnavailable(f"nothing was written: {error}") from error
        except BaseException:
            self._roll_back()
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(f"COMMIT failed: {error}") from error

    def _begin(self) -> None:
        if self._failure is not None:
            raise StoreFailed(self._failure)
        if self._closed:
            raise StoreUnavailable("the store is closed")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"cannot begin: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._failed(f"cannot begin: {error}") from error

    def _check_machine(self) -> None:
        if self._file.boot_id is None:
            return
        (boot_id,) = self._connection.execute("SELECT boot_id FROM state").fetchone()
        if boot_id != self._file.boot_id:
            raise self._failed("another machine has taken the file over")

    def _roll_back(self) -> None:
        # Some errors, such as a full disk, have ended the transaction already.
        if self._closed or not self._connection.in_transaction:
            return
        try:
            self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._failed(f"ROLLBACK failed: {error}") from error

    def _failed(self, failure: str) -> StoreFailed:
        """From now on this object is of no use; it keeps no lock that would hinder a new one."""
        self._failure = failure
        self.close()
        return StoreFailed(failure)
