"""The folder of backups that a host writes from its replica, and which of them it keeps.

Backups of an earlier pool of the host stay as they are: nothing newer takes their place. Neither
are files touched that cannot be read as backups.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from poolcore.errors import PoolError
from poolcore.facts import StoredBackup
from poolcore.filesystem import replace_file, sync_directory
from poolcore.model import BackupSchedule, PoolId
from poolcore.replica import State
from poolcore.wire.backup import HEADER_LIMIT_BYTES, decode_header, encode_backup
from poolmember.replica_file import ReplicaFile

log = logging.getLogger(__name__)

RESERVE_BYTES = 256 * 1024 * 1024
"""So much is left free on the disk: the replica and the store need it more."""
_PATTERN = "metadata-*.backup"


class BackupFolder:
    """Synchronous, and slow where a pool is large: to be used in a thread."""

    def __init__(self, path: Path, replica: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._replica = replica
        self._reserve_bytes = reserve_bytes

    def all(self) -> list[StoredBackup]:
        """What there is, the newest first."""
        return newest_first(found for found in map(_described, self._path.glob(_PATTERN)) if found)

    def look(self, state: State, *, now: datetime) -> Path | None:
        """Write a backup if one is due for a replica that is at `state`; where it is.

        OSError when the disk refuses, or has no room; PoolError when the replica does. What is
        there then stays.
        """
        pool = state.pool
        if not is_due(self._of(pool.uuid), state, now=now):
            return None
        written = self._write(now)
        own = {state.incarnation.uuid, *(ancestor.uuid for ancestor in pool.lineage)}
        for old in surplus(newest_first(self._of(pool.uuid), own), pool.backup):
            Path(old.path).unlink(missing_ok=True)
        for unfinished in self._path.glob(f"{_PATTERN}.tmp"):
            unfinished.unlink(missing_ok=True)
        return written

    def _of(self, pool: PoolId) -> list[StoredBackup]:
        return [stored for stored in self.all() if stored.pool == pool]

    def _write(self, now: datetime) -> Path:
        replica = ReplicaFile.open_for_reading(self._replica)
        try:
            data = encode_backup(replica.frames(), made=now, fresh=False)
        finally:
            replica.close()
        if not self._path.exists():
            self._path.mkdir(mode=0o700)
            sync_directory(self._path.parent)
        free = shutil.disk_usage(self._path).free
        if free < self._reserve_bytes + len(data):
            raise OSError(f"{free} bytes are free, of which {self._reserve_bytes} are left alone")
        header = decode_header(data, name="the backup")
        when = f"{header.made:%Y%m%dT%H%M%SZ}"
        place = f"{header.incarnation.counter}.{header.last.revision}"
        file = self._path / f"metadata-{header.pool[:8]}-{when}-{place}.backup"
        replace_file(file, data)
        return file


def is_due(stored: Iterable[StoredBackup], state: State, *, now: datetime) -> bool:
    """Whether a pool at `state` is to be written, given its backups."""
    interval = timedelta(minutes=state.pool.backup.interval_minutes)
    if not interval:
        return False
    here = (state.incarnation, state.revision)
    # A clock that was set back leaves backups of the future: those are no reason to wait.
    return not any(
        (found.incarnation, found.revision) == here or timedelta(0) <= now - found.made < interval
        for found in stored
    )


def surplus(stored: Sequence[StoredBackup], schedule: BackupSchedule) -> list[StoredBackup]:
    """Those of one pool's backups that are not kept; `stored` is the newest first."""
    last_of_day = {found.made.date(): found for found in reversed(stored)}
    days = sorted(last_of_day, reverse=True)[: schedule.keep_daily]
    kept = [*stored[: schedule.keep], *(last_of_day[day] for day in days)]
    return [found for found in stored if found not in kept]


def newest_first(stored: Iterable[StoredBackup], own: Collection[str] = ()) -> list[StoredBackup]:
    """In the order of the pool's history, which does not go by clocks.

    `own`: uuids of the incarnations that the pool's present state came from. What is of another
    one, of a master that did not prevail, comes after them.
    """
    return sorted(
        stored,
        key=lambda b: (b.incarnation.uuid in own, b.incarnation.counter, b.revision, b.made),
        reverse=True,
    )


def _described(file: Path) -> StoredBackup | None:
    try:
        with file.open("rb") as opened:
            header = decode_header(opened.read(HEADER_LIMIT_BYTES), name=str(file))
            size = os.fstat(opened.fileno()).st_size
    except (OSError, PoolError) as error:
        log.debug("%s cannot be read: %s", file, error)
        return None
    return StoredBackup(
        path=str(file),
        size_bytes=size,
        made=header.made,
        pool=header.pool,
        pool_name=header.pool_name,
        incarnation=header.incarnation,
        revision=header.last.revision,
    )
