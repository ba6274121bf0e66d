"""The file of the engine `sqlite`: founding it, and refusing one that is not what it should be.

Everything here blocks and runs in the store's own thread.

A file is founded under another name, completed, made durable and only then given its name, so that
a crash leaves either nothing or a whole store. Opening refuses rather than repairs; what it refuses
is left as it was, byte for byte. That is why a file is looked at through read-only connections
before the first one that could write: opening a WAL database for writing recovers it, and closing
it moves the WAL into the file.

**Never open the file itself** except through SQLite, not even to read it: when a process closes any
descriptor of a file, POSIX drops all its locks on that file, SQLite's too, and the next process to
come takes the database for abandoned.

Who has the file open is told by `poolmaster.store.sqlite_lock`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from poolcore import SCHEMA_VERSION
from poolcore.errors import PoolError, Reason
from poolcore.filesystem import network_filesystem
from poolmaster.store.contract import StoreUnavailable
from poolmaster.store.sqlite_lock import StoreLock

APPLICATION_ID = 0x504D5354
"""“PMST”, in the header of every file of this engine."""

QUICK_CHECK_BYTES = 64 * 1024 * 1024
"""Up to this size the whole file is checked at opening, at 1 to 2 ms per MiB."""

SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    boot_id TEXT NOT NULL
);
CREATE TABLE kv(
    key BLOB NOT NULL PRIMARY KEY,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER
);
CREATE INDEX kv_by_version ON kv(version);
CREATE INDEX kv_by_lease ON kv(lease) WHERE lease IS NOT NULL;
CREATE TABLE tombstone(key BLOB PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX tombstone_by_version ON tombstone(version);
CREATE TABLE lease(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ttl_seconds REAL NOT NULL,
    ends REAL NOT NULL
);
"""
"""`state.oldest`: removals at this version and before are forgotten, so a watch starts there or
later. `lease.ends`: in seconds of the machine's CLOCK_BOOTTIME; a new boot id ends every lease.
`kv` has rowids because its values are large: writing 2 KiB values took a third of the time."""


def read_boot_id() -> str:
    """The id of this machine's present boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boot_seconds() -> float:
    """Seconds since this machine booted, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """How a store uses its file; the defaults are right outside of tests."""

    boot_id: str = field(default_factory=read_boot_id)
    """Which boot of which machine this is."""
    clock: Callable[[], float] = boot_seconds
    """Measures leases; the same for every process that shares the file."""
    busy_seconds: float = 5.0
    """How long a transaction waits for another process to finish its own."""
    kept_versions: int = 10_000
    """How many versions' removals are remembered, for watches to start from."""
    network_filesystem: Callable[[Path], str | None] = network_filesystem
    """The type of the network file system that a path is on; none on a local one."""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Whose store a file is: uuids of the pool and of the incarnation."""

    pool: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A store's file, open for writing; who holds it must `close` it, in the same thread."""

    connection: sqlite3.Connection
    identity: StoreIdentity
    boot_id: str | None
    """What every transaction must find in `state.boot_id`; none: the file is not shared."""
    lock: StoreLock

    def close(self) -> None:
        """Close the database, then let others in."""
        try:
            self.connection.close()
        finally:
            self.lock.release()


def found_file(
    path: Path, identity: StoreIdentity, *, shared: bool, options: SqliteOptions
) -> OpenFile:
    """Found the store of `identity` at `path` and open it.

    Raises `PoolError`: `STATE_OF_ANOTHER_POOL` if there is something at `path` already,
    `STATE_UNWRITABLE`, `STATE_ON_NETWORK_FILESYSTEM`, `STATE_IN_USE`.
    """
    _check_folder(path, options)
    _check_vacant(path, identity)
    lock = StoreLock.acquire(path, shared=False)
    try:
        _check_vacant(path, identity)
        _build(path, identity, options)
    except (OSError, sqlite3.OperationalError) as error:
        raise _unwritable(path, error) from error
    finally:
        lock.release()
    return open_file(
        path,
        pool=identity.pool,
        incarnation=identity.incarnation,
        shared=shared,
        options=options,
    )


def open_file(
    path: Path,
    *,
    pool: str | None,
    incarnation: str | None,
    shared: bool,
    options: SqliteOptions,
) -> OpenFile:
    """Open the store at `path` for writing, if it is of this pool and incarnation (none: any).

    Raises `PoolError`: `STATE_UNWRITABLE`, `STATE_ON_NETWORK_FILESYSTEM`, `STATE_CORRUPT`,
    `STATE_SCHEMA_TOO_NEW`, `STATE_IN_USE`, `STATE_OF_ANOTHER_POOL`; and `StoreUnavailable` when
    another process keeps the database locked.
    """
    _check_folder(path, options)
    _check_file(path, options)
    with _refusing(path), ExitStack() as undo:
        lock = StoreLock.acquire(path, shared=shared, patience_seconds=options.busy_seconds)
        undo.callback(lock.release)
        identity = _check_content(path, pool, incarnation, alone=lock.alone)
        connection = undo.enter_context(closing(_connect(path, options.busy_seconds)))
        if lock.alone:
            _note_boot(connection, options.boot_id)
        else:
            _check_boot(connection, path, options.boot_id)
        if shared:
            lock.share()
        undo.pop_all()
        return OpenFile(connection, identity, options.boot_id if shared else None, lock)


def uri(path: Path, mode: str) -> str:
    """SQLite's name for the file, to be opened in `mode` (`ro`, `rw`), never created."""
    return f"{path.absolute().as_uri()}?mode={mode}"


# -- the place ------------------------------------------------------------------------------------


def _check_folder(path: Path, options: SqliteOptions) -> None:
    folder = path.absolute().parent
    _check_local(folder, options)
    if not folder.is_dir():
        raise _unwritable(path, OSError(errno.ENOENT, "there is no such directory"))
    _check_writable(folder, os.W_OK | os.X_OK)


def _check_file(path: Path, options: SqliteOptions) -> None:
    if not path.exists():
        raise _corrupt(path, "the file is missing")
    if not path.is_file():
        raise _corrupt(path, "it is not a file")
    _check_local(path, options)  # a link may lead elsewhere
    _check_writable(path, os.R_OK | os.W_OK)


def _check_local(path: Path, options: SqliteOptions) -> None:
    filesystem = options.network_filesystem(path)
    if filesystem is not None:
        raise PoolError(Reason.STATE_ON_NETWORK_FILESYSTEM, path=str(path), filesystem=filesystem)


def _check_writable(path: Path, access: int) -> None:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise _unwritable(path, OSError(errno.EROFS, os.strerror(errno.EROFS)))
    if not os.access(path, access, effective_ids=True):
        raise _unwritable(path, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def _check_vacant(path: Path, identity: StoreIdentity) -> None:
    if not os.path.lexists(path):
        return
    try:
        with _look(path, immutable=True) as connection:
            _check_header(path, connection)
            found = _described(_read_identity(connection, path))
    except (sqlite3.Error, PoolError):
        found = "somebody else"
    raise PoolError(
        Reason.STATE_OF_ANOTHER_POOL,
        path=str(path),
        found=found,
        expected=f"a new store of {_described(identity)}",
    )


def _unwritable(path: Path, error: OSError | sqlite3.Error) -> PoolError:
    problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return PoolError(Reason.STATE_UNWRITABLE, path=str(path), problem=problem)


def _corrupt(path: Path, problem: str) -> PoolError:
    return PoolError(Reason.STATE_CORRUPT, path=str(path), problem=problem)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file into the catalog's words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        name = error.sqlite_errorname
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StoreUnavailable(f"{path}: {error}") from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_FULL")):
            raise _unwritable(path, error) from error
        raise _corrupt(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise _corrupt(path, str(error)) from error


# -- the content ----------------------------------------------------------------------------------


def _build(path: Path, identity: StoreIdentity, options: SqliteOptions) -> None:
    """Make the file complete and durable under another name, then give it its own."""
    draft = path.with_name(path.name + ".founding")
    for part in ("", "-wal", "-shm"):
        draft.with_name(draft.name + part).unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with closing(_connect(draft, options.busy_seconds)) as connection:
        connection.executescript(f"BEGIN; {SCHEMA}")
        connection.executemany(
            "INSERT INTO meta(name, value) VALUES (?, ?)",
            [("pool", identity.pool), ("incarnation", identity.incarnation)],
        )
        connection.execute(
            "INSERT INTO state(id, version, oldest, boot_id) VALUES (1, 0, 0, ?)",
            (options.boot_id,),
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    # Unlike a rename it never replaces what somebody put there meanwhile.
    os.link(draft, path)
    draft.unlink()
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri(path, "rw"), uri=True, isolation_level=None, timeout=busy_seconds
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _look(path: Path, *, immutable: bool) -> closing[sqlite3.Connection]:
    # An immutable file is read without locks and without its WAL, and leaves no trace.
    name = uri(path, "ro") + ("&immutable=1" if immutable else "")
    return closing(sqlite3.connect(name, uri=True, isolation_level=None))


def _check_header(path: Path, connection: sqlite3.Connection) -> None:
    """Whether the file is a store at all, of a schema that is known here."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise _corrupt(path, "it is not the store of a pool")
    if schema > SCHEMA_VERSION:
        raise PoolError(
            Reason.STATE_SCHEMA_TOO_NEW,
            path=str(path),
            found=str(schema),
            known=str(SCHEMA_VERSION),
        )


def _check_content(
    path: Path, pool: str | None, incarnation: str | None, *, alone: bool
) -> StoreIdentity:
    """Whose store it is; refuses another's and a damaged one.

    Without its WAL a file is read only if it has none and nobody can be writing to it: half way
    through a checkpoint, a moment ago or at a crash, the file alone is malformed.
    """
    wal = path.with_name(path.name + "-wal")
    size = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
    with _look(path, immutable=alone and not wal.exists()) as connection:
        _check_header(path, connection)
        identity = _read_identity(connection, path)
        expected = StoreIdentity(pool or identity.pool, incarnation or identity.incarnation)
        if identity != expected:
            raise PoolError(
                Reason.STATE_OF_ANOTHER_POOL,
                path=str(path),
                found=_described(identity),
                expected=_described(expected),
            )
        # Whoever came first has checked it for those who find it open.
        if alone and size <= QUICK_CHECK_BYTES:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _corrupt(path, verdict)
    return identity


def _read_identity(connection: sqlite3.Connection, path: Path) -> StoreIdentity:
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    rows = connection.execute("SELECT count(*) FROM state").fetchone()
    if rows != (1,) or not {"pool", "incarnation"} <= meta.keys():
        raise _corrupt(path, "it does not say whose it is")
    return StoreIdentity(meta["pool"], meta["incarnation"])


def _described(identity: StoreIdentity) -> str:
    return f"pool {identity.pool}, incarnation {identity.incarnation}"


# -- the machine ----------------------------------------------------------------------------------


def _note_boot(connection: sqlite3.Connection, boot_id: str) -> None:
    """Record that the file is used in this boot; leases of another end, as their clock did."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT boot_id FROM state").fetchone() != (boot_id,):
        connection.execute("UPDATE lease SET ends = -1")
        connection.execute("UPDATE state SET boot_id = ?", (boot_id,))
    connection.execute("COMMIT")


def _check_boot(connection: sqlite3.Connection, path: Path, boot_id: str) -> None:
    if connection.execute("SELECT boot_id FROM state").fetchone() != (boot_id,):
        raise PoolError(Reason.STATE_IN_USE, path=f"{path}, on another machine")
