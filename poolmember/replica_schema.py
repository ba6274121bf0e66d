"""The schema of a replica's file, and everything that is refused before one is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from poolcore import SCHEMA_VERSION
from poolcore.errors import PoolError, Reason
from poolcore.filesystem import network_filesystem
from poolcore.model import Incarnation, PoolId
from poolcore.replica import CommitId

APPLICATION_ID: Final = 0x504D_5250
"""In the file's header: a replica of the pool manager."""

FilesystemOf = Callable[[Path], str | None]
"""The type of the network file system a path is on; none on a local one."""

_SCHEMA = """
CREATE TABLE head (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0),
    pool TEXT NOT NULL,
    highest_term INTEGER NOT NULL,    -- ever obeyed; may be ahead of term
    counter INTEGER, incarnation TEXT, forked_at INTEGER,
    term INTEGER, revision INTEGER    -- of the last commit; null until the first snapshot
);
CREATE TABLE objects (
    kind TEXT NOT NULL, uuid TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, uuid)
) WITHOUT ROWID;
CREATE TABLE log (revision INTEGER PRIMARY KEY, delta BLOB NOT NULL);
CREATE TABLE requests (
    revision INTEGER PRIMARY KEY, id TEXT NOT NULL, payload_hash BLOB NOT NULL
);
"""

# Codes that speak of the place, not of the content.
_UNREADABLE = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_IOERR}
)
_UNWRITABLE = _UNREADABLE | {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL}


@dataclass(frozen=True, slots=True)
class ReplicaHead:
    """How far a replica is; `incarnation` and `last` are none before its first snapshot."""

    pool: PoolId
    highest_term: int
    incarnation: Incarnation | None
    last: CommitId | None


def corrupt(path: Path, problem: str) -> PoolError:
    """What is said of a file that cannot be understood."""
    return PoolError(Reason.STATE_CORRUPT, path=str(path), problem=problem)


def refusal(path: Path, error: sqlite3.Error, *, writing: bool) -> PoolError:
    """What an error of SQLite amounts to, by its code."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its extension
    if code == sqlite3.SQLITE_BUSY:
        return PoolError(Reason.STATE_IN_USE, path=str(path))
    if writing and code in _UNWRITABLE:
        return PoolError(Reason.STATE_UNWRITABLE, path=str(path), problem=str(error))
    if code in _UNREADABLE:
        return PoolError(Reason.STATE_UNREADABLE, path=str(path), problem=str(error))
    return corrupt(path, str(error))


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection; `mode` is a URI's query such as `mode=rw`."""
    # Transactions are begun and ended in so many words, not by the library's guess.
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)


def read_head(connection: sqlite3.Connection) -> ReplicaHead:
    """The head as it is in the file."""
    row = connection.execute(
        "SELECT pool, highest_term, counter, incarnation, forked_at, term, revision FROM head"
    ).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("it has no head")
    pool, highest_term, counter, incarnation, forked_at, term, revision = row
    if revision is None:
        return ReplicaHead(PoolId(pool), highest_term, None, None)
    return ReplicaHead(
        PoolId(pool),
        highest_term,
        Incarnation(counter, incarnation, forked_at),
        CommitId(term, revision),
    )


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse what is no replica, is damaged, or was written by a newer release."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID or schema < 1:
        raise corrupt(path, "it is no replica of a pool")
    if schema > SCHEMA_VERSION:
        raise PoolError(
            Reason.STATE_SCHEMA_TOO_NEW,
            path=str(path),
            found=str(schema),
            known=str(SCHEMA_VERSION),
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise corrupt(path, verdict)
    head = read_head(connection)
    count, first, last = connection.execute(
        "SELECT count(*), min(revision), max(revision) FROM log"
    ).fetchone()
    revision = 0 if head.last is None else head.last.revision
    if count and (last != revision or count != last - first + 1):
        raise corrupt(path, f"its log does not lead to its last revision {revision}")


def _check_place(path: Path, filesystem_of: FilesystemOf) -> None:
    filesystem = filesystem_of(path)
    if filesystem is not None:
        raise PoolError(Reason.STATE_ON_NETWORK_FILESYSTEM, path=str(path), filesystem=filesystem)


def examine(
    path: Path, pool: PoolId | None, *, filesystem_of: FilesystemOf = network_filesystem
) -> None:
    """Every reason not to open an existing file, found without changing a byte of it."""
    if not path.exists():
        raise PoolError(Reason.STATE_MISSING, path=str(path))
    _check_place(path, filesystem_of)
    if path.stat().st_size == 0:
        raise corrupt(path, "it is empty")
    # Read-only connections leave the write-ahead log of a killed daemon as it is; where there is
    # none, `immutable` keeps SQLite from making one.
    has_log = path.with_name(path.name + "-wal").exists()
    try:
        connection = connect(path, "mode=ro" if has_log else "mode=ro&immutable=1")
        try:
            _check(path, connection)
            found = read_head(connection).pool
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise refusal(path, error, writing=False) from error
    if pool is not None and found != pool:
        raise PoolError(
            Reason.STATE_OF_ANOTHER_POOL,
            path=str(path),
            found=f"pool {found}",
            expected=f"pool {pool}",
        )


def create_replica(
    path: Path, pool: PoolId, *, filesystem_of: FilesystemOf = network_filesystem
) -> None:
    """An empty replica: there whole or not at all, should this be interrupted."""
    _check_place(path, filesystem_of)
    draft = path.with_name(path.name + ".new")
    try:
        for part in ("", "-wal", "-shm", "-journal"):
            Path(f"{draft}{part}").unlink(missing_ok=True)
        # As private as the rest of the state; SQLite gives the other parts the same mode.
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = connect(draft, "mode=rw")
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.executescript(_SCHEMA)
            connection.execute(
                "INSERT INTO head (only_row, pool, highest_term) VALUES (0, ?, 0)", (pool,)
            )
        finally:
            connection.close()
        os.rename(draft, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except (OSError, sqlite3.Error) as error:
        raise PoolError(Reason.STATE_UNWRITABLE, path=str(path), problem=str(error)) from error


def write_head(connection: sqlite3.Connection, head: ReplicaHead) -> None:
    """Put the head into the file, as a part of the caller's transaction."""
    incarnation, last = head.incarnation, head.last
    connection.execute(
        "UPDATE head SET highest_term = ?, counter = ?, incarnation = ?, forked_at = ?,"
        " term = ?, revision = ?",
        (
            head.highest_term,
            None if incarnation is None else incarnation.counter,
            None if incarnation is None else incarnation.uuid,
            None if incarnation is None else incarnation.forked_at,
            None if last is None else last.term,
            None if last is None else last.revision,
        ),
    )
