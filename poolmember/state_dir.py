"""The daemon's state directory: who this host is, which pool it belongs to, one daemon at a time.

    host.json     identity and membership; replaced atomically
    lock          held (flock) by the daemon that runs on this directory
    store.db      the store of the host's own pool, unless that is a shared file elsewhere
    replica.db    this host's replica of the pool's metadata
    api.sock      the host's own way in (below /run for the default directory)
    pool.json     what scripts on the host see of the pool (beside the socket, wherever that is)
    hooks.d       their hooks (below /etc for the default directory)
    *.retired-N   databases of earlier memberships, the last three of each
    recovery/     commits that the pool has not; never deleted, not by a reset either
    backups/      backups of the pool's metadata, the newest of each pool; a reset leaves them

**Membership and databases change together.** `write_identity(..., retire=...)` writes down which
databases the new membership no longer uses before it renames them, and opening the directory
finishes what a crash interrupted. So a database that is not retired belongs to the membership that
`host.json` names. A pool is founded in this order: an identity without membership, the store, the
identity with it; what a founding that did not get that far left behind is retired, too.

**Opening refuses rather than repairs**: a directory that is unwritable, on a network file system,
in use, unreadable, newer than this release or half present stays as it is, byte for byte.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from poolcore import filesystem
from poolcore.errors import PoolError, Reason
from poolcore.filesystem import network_filesystem, sync_directory
from poolmember.config import socket_path
from poolmember.identity import Document, Identity, Own, corrupt, decode, encode

IDENTITY_FILE: Final = "host.json"
LOCK_FILE: Final = "lock"
STORE_FILE: Final = "store.db"
REPLICA_FILE: Final = "replica.db"
RECOVERY_FOLDER: Final = "recovery"
ETCD_FOLDER: Final = "etcd"
BACKUP_FOLDER: Final = "backups"
DATABASES: Final = (STORE_FILE, REPLICA_FILE)
KEPT_RETIRED: Final = 3

# A database consists of all of these; the main file goes first when it is renamed.
_PARTS = ("", "-wal", "-shm")


def unwritable(path: Path, error: OSError) -> PoolError:
    """The refusal of a disk."""
    problem = error.strerror or str(error)
    return PoolError(Reason.STATE_UNWRITABLE, path=str(path), problem=problem)


def replace_file(path: Path, text: str) -> None:
    """The file is this text, or after a crash still the old one; durable on return."""
    filesystem.replace_file(path, text.encode())


def _load(path: Path) -> Document | None:
    """What `host.json` in the directory `path` says; none when it is not there."""
    file = path / IDENTITY_FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        problem = error.strerror or str(error)
        raise PoolError(Reason.STATE_UNREADABLE, path=str(file), problem=problem) from error
    except OSError as error:
        raise corrupt(file, error.strerror or str(error)) from error
    return decode(file, data)


def _check_databases(path: Path, document: Document | None) -> None:
    """Refuse a directory that holds only a part of what it should."""
    if document is None:
        found = [name for name in DATABASES if any((path / (name + p)).exists() for p in _PARTS)]
        if found:
            raise corrupt(path, f"there is {found[0]}, but no {IDENTITY_FILE}")
        return
    membership = document.identity.membership
    needs_store = isinstance(membership, Own) and membership.store is None
    if membership is not None and needs_store and not (path / STORE_FILE).exists():
        # Without it the pool would be founded a second time over what this host once promised.
        raise corrupt(path, f"{STORE_FILE}, the store of pool {membership.pool}, is missing")


def read_identity(path: Path) -> Identity | None:
    """Who the host is, without holding the directory: for looking at it while a daemon runs.

    None when no daemon has been in the directory yet. Raises as `StateDir.open` does.
    """
    document = _load(path)
    _check_databases(path, document)
    return None if document is None else document.identity


class StateDir:
    """The state directory, held by this process. A context manager; `close` gives it back."""

    def __init__(self, path: Path, *, lock: int, document: Document | None) -> None:
        self.path = path
        self._lock = lock
        self._document = document

    @classmethod
    def open(
        cls, path: Path, *, filesystem_of: Callable[[Path], str | None] = network_filesystem
    ) -> StateDir:
        """Hold the directory `path`, which may be empty or missing.

        Raises `STATE_UNWRITABLE`, `STATE_ON_NETWORK_FILESYSTEM`, `STATE_IN_USE`, `STATE_CORRUPT`
        or `STATE_SCHEMA_TOO_NEW`, checked in this order, and then has changed nothing.
        """
        path = path.absolute()
        _check_place(path, filesystem_of)
        try:
            if not (path / LOCK_FILE).exists():
                # Nobody ever ran here, or it is a copy: look before leaving the first trace.
                _check_databases(path, _load(path))
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _acquire(path)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            document = _load(path)
            _check_databases(path, document)
            state = cls(path, lock=lock, document=document)
            state._finish_retiring()
            state._retire_unfinished()
        except BaseException:
            os.close(lock)
            raise
        return state

    @classmethod
    def open_for_reset(cls, path: Path) -> StateDir:
        """Hold a directory even if its content is corrupt; its identity is none if that is.

        For starting over. Everything else is refused as by `open`, a newer schema too.
        """
        path = path.absolute()
        _check_place(path, network_filesystem)
        try:
            lock = _acquire(path)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            state = cls(path, lock=lock, document=_load_if_sound(path))
            state._finish_retiring()
        except BaseException:
            os.close(lock)
            raise
        return state

    @property
    def identity(self) -> Identity | None:
        """Who the host is; none in a fresh directory."""
        return None if self._document is None else self._document.identity

    @property
    def store_path(self) -> Path:
        """Of the store of the host's own pool."""
        return self.path / STORE_FILE

    @property
    def replica_path(self) -> Path:
        """Of the replica."""
        return self.path / REPLICA_FILE

    @property
    def socket_path(self) -> Path:
        """Of the host's own API socket; its directory is made by the service manager."""
        return socket_path(self.path)

    def write_identity(self, identity: Identity, *, retire: Sequence[str] = ()) -> None:
        """Make `identity` this host's, and with it retire databases (`store.db`, `replica.db`).

        One step as far as a crash is concerned: when the directory is opened again, either the old
        identity is there with its databases in place, or the new one with those of `retire` moved
        aside. Databases must be closed before; what is not there is left out.
        """
        membership = identity.membership
        if STORE_FILE in retire and isinstance(membership, Own) and membership.store is None:
            raise ValueError(f"the new membership uses {STORE_FILE}")
        renames = tuple((name, self._retired_name(name)) for name in retire if self._has(name))
        try:
            self._write(Document(identity, renames))
            self._finish_retiring()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def retire(self, name: str) -> None:
        """Move a database that the present membership does not use to `<name>.retired-<n>`."""
        if self.identity is None:
            raise ValueError("a fresh directory has nothing to retire")
        self.write_identity(self.identity, retire=(name,))

    def start_over(self) -> None:
        """Move databases and identity aside: the directory is fresh afterwards.

        For a directory whose identity cannot be read. Databases go first, so that a crash in
        between leaves a directory that is still refused, and this can be done again.
        """
        try:
            for name in (*DATABASES, IDENTITY_FILE):
                if self._has(name):
                    self._move(name, self._retired_name(name))
                    self._drop_oldest(name)
            sync_directory(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._document = None

    def close(self) -> None:
        """Give the directory back. The lock file stays: removing it would race with another."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> StateDir:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- retiring ---------------------------------------------------------------------------------

    def _retire_unfinished(self) -> None:
        # Databases without a membership: a pool whose founding was interrupted before anybody
        # was told of it.
        identity = self.identity
        if identity is not None and identity.membership is None and any(map(self._has, DATABASES)):
            self.write_identity(identity, retire=DATABASES)

    def _has(self, name: str) -> bool:
        return any((self.path / (name + part)).exists() for part in _PARTS)

    def _write(self, document: Document) -> None:
        replace_file(self.path / IDENTITY_FILE, encode(document))
        self._document = document

    def _finish_retiring(self) -> None:
        document = self._document
        if document is None or not document.retire:
            return
        for source, target in document.retire:
            self._move(source, target)
        sync_directory(self.path)
        self._write(Document(document.identity))
        for source, _ in document.retire:
            self._drop_oldest(source)

    def _move(self, source: str, target: str) -> None:
        for part in _PARTS:
            try:
                os.rename(self.path / (source + part), self.path / (target + part))
            except FileNotFoundError:  # it has none, or an interrupted attempt moved it
                continue

    def _retired(self, name: str) -> dict[int, str]:
        form = re.compile(re.escape(name) + r"\.retired-(\d+)")
        matches = (form.fullmatch(entry) for entry in os.listdir(self.path))
        return {int(match[1]): match[0] for match in matches if match}

    def _retired_name(self, name: str) -> str:
        return f"{name}.retired-{max(self._retired(name), default=0) + 1}"

    def _drop_oldest(self, name: str) -> None:
        retired = self._retired(name)
        for number in sorted(retired)[:-KEPT_RETIRED]:
            for part in _PARTS:
                (self.path / (retired[number] + part)).unlink(missing_ok=True)


def _check_place(path: Path, filesystem_of: Callable[[Path], str | None]) -> None:
    """Refuse a path where the directory cannot be, before anything is created there."""
    existing = path
    while not os.path.exists(existing):  # false, not an error, below what may not be searched
        existing = existing.parent
    if not os.path.isdir(existing):
        raise unwritable(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(existing, os.W_OK | os.X_OK):
        read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise unwritable(path, OSError(code, os.strerror(code)))
    filesystem = filesystem_of(existing)
    if filesystem is not None:
        raise PoolError(Reason.STATE_ON_NETWORK_FILESYSTEM, path=str(path), filesystem=filesystem)


def _acquire(path: Path) -> int:
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise PoolError(Reason.STATE_IN_USE, path=str(path)) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _load_if_sound(path: Path) -> Document | None:
    try:
        return _load(path)
    except PoolError as error:
        if error.reason is not Reason.STATE_CORRUPT:
            raise
        return None
