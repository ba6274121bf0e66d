"""A replica in its file: reading it, and the transactions that carry it on.

Everything here is synchronous and belongs to the thread that opened it; `replica_store` is what
the daemon uses. Objects and deltas are kept as the bytes the master sent, so that what a newer
release added to them is passed on unharmed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from poolcore.errors import PoolError, Reason
from poolcore.filesystem import network_filesystem
from poolcore.model import Incarnation, Kind, Pool, PoolId
from poolcore.replica import (
    DEFAULT_HISTORY_REVISIONS,
    CommitId,
    Delta,
    DeltaDoesNotFollow,
    Put,
    State,
    snapshot,
)
from poolcore.requests import RequestRecord
from poolcore.wire.chain import SnapshotAssembler, frames
from poolcore.wire.codec import MalformedMessage, decode_object, parse, serialize
from poolmanager.v1 import chain_pb2, resources_pb2
from poolmember.replica_schema import (
    FilesystemOf,
    ReplicaHead,
    connect,
    corrupt,
    create_replica,
    examine,
    read_head,
    refusal,
    write_head,
)

_WRITING = (
    # A write that leaves nothing fails at once where the file may only be read; BEGIN does not.
    "BEGIN IMMEDIATE",
    "UPDATE head SET pool = pool",
    "ROLLBACK",
    "PRAGMA synchronous = FULL",
    # A snapshot makes the write-ahead log as large as the replica; it need not stay so.
    "PRAGMA journal_size_limit = 16777216",
)


class ReplicaFile:
    """An open replica; every write is one durable transaction (WAL, `synchronous=FULL`).

    After an error of SQLite in a write its outcome may be unknown. So the next operation opens the
    file anew and goes by what it holds; while that fails, it fails with the same error.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._in_doubt = False
        self.head = read_head(connection)
        self._history = self._stored_history()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        pool: PoolId,
        create: bool = False,
        filesystem_of: FilesystemOf = network_filesystem,
    ) -> ReplicaFile:
        """Open a replica of `pool` for writing; `create` makes an empty one where there is none.

        Raises `STATE_MISSING`, `STATE_ON_NETWORK_FILESYSTEM`, `STATE_CORRUPT`,
        `STATE_SCHEMA_TOO_NEW`, `STATE_OF_ANOTHER_POOL` or `STATE_UNWRITABLE`, and then has changed
        no byte of the file.
        """
        if create and not path.exists():
            create_replica(path, pool, filesystem_of=filesystem_of)
        examine(path, pool, filesystem_of=filesystem_of)
        return cls._opened(path, "mode=rw", _WRITING)

    @classmethod
    def open_for_reading(cls, path: Path) -> ReplicaFile:
        """Open a replica to look at it, while a daemon may be writing to it.

        Raises as `open` does, `STATE_UNREADABLE` instead of `STATE_UNWRITABLE`.
        """
        examine(path, None)
        return cls._opened(path, "mode=ro", ("BEGIN",))  # one moment for everything that is read

    @classmethod
    def _opened(cls, path: Path, mode: str, preparation: Sequence[str]) -> ReplicaFile:
        try:
            connection = connect(path, mode)
            try:
                for statement in preparation:
                    connection.execute(statement)
                return cls(path, connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise refusal(path, error, writing=mode == "mode=rw") from error
        except MalformedMessage as error:
            raise corrupt(path, str(error)) from error

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    # -- reading ----------------------------------------------------------------------------------

    def load(self) -> State | None:
        """The state, decoded; none before the first snapshot. `STATE_CORRUPT` if undecodable."""
        self._settle()
        head = self.head
        if head.incarnation is None or head.last is None:
            return None
        try:
            objects = [
                decode_object(body)
                for (body,) in self._connection.execute("SELECT body FROM objects")
            ]
            requests = [
                RequestRecord(id_, payload_hash, revision)
                for id_, payload_hash, revision in self._connection.execute(
                    "SELECT id, payload_hash, revision FROM requests"
                )
            ]
        except MalformedMessage as error:
            raise corrupt(self._path, str(error)) from error
        except sqlite3.Error as error:
            raise refusal(self._path, error, writing=False) from error
        return snapshot(head.incarnation, head.last, objects, requests)

    def frames(self) -> Iterator[chain_pb2.SnapshotFrame]:
        """The frames of a snapshot of everything, nothing of it decoded further than need be.

        `STATE_MISSING` before the first snapshot, `MalformedMessage` for what is none of ours.
        """
        self._settle()
        head = self.head
        if head.incarnation is None or head.last is None:
            raise PoolError(Reason.STATE_MISSING, path=str(self._path))
        try:
            yield from frames(head.incarnation, head.last, self._objects(), self._requests())
        except sqlite3.Error as error:
            raise refusal(self._path, error, writing=False) from error

    def _objects(self) -> Iterator[resources_pb2.Object]:
        for kind in Kind:
            for (body,) in self._connection.execute(
                "SELECT body FROM objects WHERE kind = ? ORDER BY uuid", (kind,)
            ):
                yield parse(resources_pb2.Object, body)

    def _requests(self) -> Iterator[chain_pb2.RequestRecord]:
        for id_, payload_hash, revision in self._connection.execute(
            "SELECT id, payload_hash, revision FROM requests ORDER BY revision"
        ):
            yield chain_pb2.RequestRecord(id=id_, payload_hash=payload_hash, revision=revision)

    def log_after(self, revision: int) -> list[bytes]:
        """Every delta after `revision`, serialized, in order; `HISTORY_GONE` if one is missing."""
        self._settle()
        last = 0 if self.head.last is None else self.head.last.revision
        try:
            rows = self._connection.execute(
                "SELECT revision, delta FROM log WHERE revision > ? ORDER BY revision", (revision,)
            ).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._path, error, writing=False) from error
        oldest = rows[0][0] if rows else last + 1
        if revision < last and oldest != revision + 1:
            raise PoolError(Reason.HISTORY_GONE, since=str(revision), oldest=str(oldest))
        return [delta for _, delta in rows]

    def read_log(self, after: int, limit: int) -> list[bytes]:
        """Up to `limit` serialized deltas that follow revision `after`, as far as they are kept."""
        self._settle()
        try:
            rows = self._connection.execute(
                "SELECT delta FROM log WHERE revision > ? ORDER BY revision LIMIT ?", (after, limit)
            ).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._path, error, writing=False) from error
        return [delta for (delta,) in rows]

    def _stored_history(self) -> int:
        bodies = self._connection.execute("SELECT body FROM objects WHERE kind = ?", (Kind.POOL,))
        for (body,) in bodies:
            pool = parse(resources_pb2.Object, body).pool
            if pool.HasField("history_revisions"):
                return pool.history_revisions
        return DEFAULT_HISTORY_REVISIONS

    # -- writing ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find out what has become of a write that failed."""
        if self._in_doubt:
            self._connection.close()
            anew = self._opened(self._path, "mode=rw", _WRITING)
            self._connection, self.head, self._history = anew._connection, anew.head, anew._history
            self._in_doubt = False

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._in_doubt = True
            raise refusal(self._path, error, writing=True) from error
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    self._connection.execute("ROLLBACK")

    def append(self, deltas: Sequence[tuple[Delta, bytes]]) -> None:
        """Apply consecutive deltas, each with the bytes it came as, in one transaction.

        `DeltaDoesNotFollow` when one does not follow its predecessor; nothing is applied then.
        """
        if not deltas:
            return
        self._settle()
        incarnation, last = self.head.incarnation, self.head.last
        if incarnation is None or last is None:
            raise DeltaDoesNotFollow("the replica has no snapshot yet")
        run = _Run(incarnation, last, self.head.highest_term, self._history)
        for delta, raw in deltas:
            run.add(delta, raw)
        head = ReplicaHead(self.head.pool, run.highest_term, run.incarnation, run.last)
        with self._transaction() as connection:
            run.write(connection)
            write_head(connection, head)
        self.head, self._history = head, run.history

    def replace(self, frames: Sequence[chain_pb2.SnapshotFrame]) -> State:
        """Become what a complete snapshot says, and return that.

        In one transaction: until it has ended, whoever looks sees the old content, also after a
        crash. `MalformedMessage` for an incomplete snapshot or a wrong digest,
        `STATE_OF_ANOTHER_POOL` for one of another pool; nothing is changed then.
        """
        self._settle()
        state = _assembled(frames)
        for pool in state.all(Pool):
            if pool.uuid != self.head.pool:
                raise PoolError(
                    Reason.STATE_OF_ANOTHER_POOL,
                    path="the snapshot",
                    found=f"pool {pool.uuid}",
                    expected=f"pool {self.head.pool}",
                )
        # Terms are counted within an incarnation.
        same = self.head.incarnation is None or self.head.incarnation.uuid == state.incarnation.uuid
        highest = max(self.head.highest_term if same else 0, state.last.term)
        head = ReplicaHead(self.head.pool, highest, state.incarnation, state.last)
        with self._transaction() as connection:
            for table in ("objects", "log", "requests"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above
            connection.executemany(
                "INSERT INTO objects (kind, uuid, body) VALUES (?, ?, ?)",
                (_row(message) for frame in frames for message in frame.objects),
            )
            connection.executemany(
                "INSERT INTO requests (revision, id, payload_hash) VALUES (?, ?, ?)",
                ((r.revision, r.id, r.payload_hash) for frame in frames for r in frame.requests),
            )
            write_head(connection, head)
        self.head, self._history = head, state.history_revisions
        return state

    def obey(self, term: int) -> None:
        """Record that no term below `term` is obeyed any more; lower ones change nothing."""
        self._settle()
        if term <= self.head.highest_term:
            return
        head = ReplicaHead(self.head.pool, term, self.head.incarnation, self.head.last)
        with self._transaction() as connection:
            write_head(connection, head)
        self.head = head


def _row(message: resources_pb2.Object) -> tuple[str, str, bytes]:
    which = message.WhichOneof("object")
    assert which is not None  # noqa: S101 - the assembler decoded it
    return which, getattr(message, which).uuid, serialize(message)


def _assembled(frames: Sequence[chain_pb2.SnapshotFrame]) -> State:
    assembler = SnapshotAssembler()
    state = None
    for frame in frames:
        if state is not None:
            raise MalformedMessage("a frame after the last one of the snapshot")
        state = assembler.add(frame)
    if state is None:
        raise MalformedMessage("the snapshot ends before its last frame")
    return state


class _Run:
    """What a run of deltas amounts to, so that each object is written once."""

    def __init__(
        self, incarnation: Incarnation, last: CommitId, highest_term: int, history: int
    ) -> None:
        self.incarnation = incarnation
        self.last = last
        self.history = history
        self.highest_term = highest_term
        self._objects: dict[tuple[str, str], bytes | None] = {}
        self._log: list[tuple[int, bytes]] = []
        self._requests: dict[int, RequestRecord] = {}
        self._forgotten: list[tuple[int]] = []
        self._log_start = 0

    def add(self, delta: Delta, raw: bytes) -> None:
        follows = delta.predecessor == self.last and (
            delta.commit.revision == self.last.revision + 1
        )
        if delta.incarnation != self.incarnation.uuid or not follows:
            raise DeltaDoesNotFollow(
                f"delta {delta.commit} after {delta.predecessor}, replica at"
                f" {self.last} of {self.incarnation.uuid}"
            )
        message = parse(chain_pb2.Delta, raw)
        for change, sent in zip(delta.changes, message.changes, strict=True):
            if isinstance(change, Put):
                obj = change.object
                self._objects[obj.KIND, obj.uuid] = serialize(sent.put)
                if isinstance(obj, Pool):
                    self.history = obj.history_revisions
            else:
                self._objects[change.kind, change.uuid] = None
                if change.kind is Kind.POOL:
                    self.history = DEFAULT_HISTORY_REVISIONS
        self.last = delta.commit
        if delta.succession is not None:
            # Terms are counted within an incarnation.
            self.incarnation, self.highest_term = delta.succession.incarnation, 0
        self.highest_term = max(self.highest_term, delta.commit.term)
        revision = delta.commit.revision
        self._log.append((revision, raw))
        self._log_start = max(self._log_start, revision - self.history + 1)
        # The very record that `RequestWindow.advanced` drops.
        self._forgotten.append((revision - self.history,))
        self._requests.pop(revision - self.history, None)
        if delta.request is not None:
            self._requests[revision] = delta.request

    def write(self, connection: sqlite3.Connection) -> None:
        puts = [(*key, body) for key, body in self._objects.items() if body is not None]
        removes = [key for key, body in self._objects.items() if body is None]
        connection.executemany(
            "INSERT INTO objects (kind, uuid, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, uuid) DO UPDATE SET body = excluded.body",
            puts,
        )
        connection.executemany("DELETE FROM objects WHERE kind = ? AND uuid = ?", removes)
        connection.executemany("INSERT INTO log (revision, delta) VALUES (?, ?)", self._log)
        connection.execute("DELETE FROM log WHERE revision < ?", (self._log_start,))
        connection.executemany("DELETE FROM requests WHERE revision = ?", self._forgotten)
        connection.executemany(
            "INSERT INTO requests (revision, id, payload_hash) VALUES (?, ?, ?)",
            [(revision, r.id, r.payload_hash) for revision, r in self._requests.items()],
        )
