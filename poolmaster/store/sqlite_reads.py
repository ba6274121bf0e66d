"""The reads of the engine `sqlite`.

Every answer comes from one statement, and so from one state. Errors that may pass are
`StoreUnavailable`, a damaged file is `StoreFailed`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosqlite

from poolmaster.store.contract import (
    Item,
    ReadResult,
    StoreFailed,
    StoreUnavailable,
    WatchEvent,
    WatchGone,
)
from poolmaster.store.sqlite_file import uri

# One statement sees one state, so the version that a read reports comes along in each row; without
# any match there is one row without a key. Keys of an ended lease are left out.
_READ_KEY = """
SELECT state.version, kv.key, kv.value, kv.version
FROM state LEFT JOIN kv ON kv.key = :start
    AND (lease IS NULL OR EXISTS (SELECT 1 FROM lease WHERE id = kv.lease AND ends > :now))
WHERE state.id = 1
"""
_READ_RANGE = """
SELECT state.version, kv.key, kv.value, kv.version
FROM state LEFT JOIN kv ON kv.key >= :start AND kv.key < :end
    AND (lease IS NULL OR EXISTS (SELECT 1 FROM lease WHERE id = kv.lease AND ends > :now))
WHERE state.id = 1
ORDER BY kv.key LIMIT :limit
"""
_READ_STATE = "SELECT version, oldest, (SELECT min(ends) FROM lease) FROM state"
# By version: a look costs what has changed, not what the range holds.
_READ_CHANGES = """
SELECT state.version, state.oldest, change.key, change.value, change.version
FROM state LEFT JOIN (
    SELECT key, value, version FROM kv INDEXED BY kv_by_version
    WHERE version > :seen AND key >= :start AND key < :end
    UNION ALL
    SELECT key, NULL, version FROM tombstone INDEXED BY tombstone_by_version
    WHERE version > :seen AND key >= :start AND key < :end
) AS change
ORDER BY change.version, change.key
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What one look of a watch found."""

    events: tuple[WatchEvent, ...]
    version: int
    """The version up to which the look went."""
    lease_ended: bool
    """There is a lease whose keys are to be removed."""


class Reads:
    """The reads of one file, through a connection of its own in aiosqlite's thread.

    Made by `connect`, and to be closed; what the event loop leaves behind at its end is closed with
    it, since aiosqlite's thread would keep the process alive. Moments (`now`) are in seconds of
    CLOCK_BOOTTIME.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._open = asyncio.ensure_future(self._keep())  # noqa: TID251 - awaited by `close`

    @classmethod
    async def connect(cls, path: Path, *, busy_seconds: float) -> Reads:
        """Open the file read only, so that this can never be what recovers or checkpoints it."""
        return cls(
            await aiosqlite.connect(
                uri(path, "ro"), uri=True, isolation_level=None, timeout=busy_seconds
            )
        )

    async def read(
        self, start: bytes, end: bytes | None, limit: int | None, now: float
    ) -> ReadResult:
        """As `Store.read`."""
        values: dict[str, Any] = {"start": start, "now": now}
        if end is not None:
            values |= {"end": end, "limit": -1 if limit is None else limit + 1}
        rows = await self._fetch(_READ_KEY if end is None else _READ_RANGE, values)
        items = tuple(Item(*row[1:]) for row in rows[:limit] if row[1] is not None)
        return ReadResult(items, rows[0][0], more=limit is not None and len(rows) > limit)

    async def changes(self, start: bytes, end: bytes, *, seen: int, now: float) -> Changes:
        """The newest change of each key in `[start, end)` after version `seen`, in order.

        Raises `WatchGone` when removals after `seen` have been forgotten.
        """
        ((version, oldest, ends),) = await self._fetch(_READ_STATE, {})
        lease_ended = ends is not None and ends <= now
        if seen >= max(version, oldest):
            return Changes((), seen, lease_ended)
        rows = await self._fetch(_READ_CHANGES, {"seen": seen, "start": start, "end": end})
        version, oldest = rows[0][:2]
        if seen < oldest:
            raise WatchGone(oldest)
        events = tuple(WatchEvent(*row[2:]) for row in rows if row[2] is not None)
        return Changes(events, max(seen, version), lease_ended)

    async def close(self) -> None:
        """Close the connection behind what is being read; calling it again does nothing."""
        self._open.cancel()
        await asyncio.wait({self._open})
        # Once more, for it may have been cancelled before it had begun.
        await self._connection.close()

    async def _keep(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self._connection.close()

    async def _fetch(self, statement: str, values: dict[str, Any]) -> list[Any]:
        try:
            return list(await self._connection.execute_fetchall(statement, values))
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(str(error)) from error
        except sqlite3.DatabaseError as error:
            raise StoreFailed(str(error)) from error
