"""`pool.json`: how the host stands in its pool, for scripts on the host to read.

An interface (docs/scripts-on-a-host.md): keys are only ever added. The file is replaced by a
rename, so whoever reads it sees the old one or the new one, whole. It is not made durable: it tells
of a daemon that runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.model import PoolId
from poolmember.place import Place, Role, Told

log = logging.getLogger(__name__)

MODE = 0o644


class PoolFile:
    """Writes the file, in a thread: a disk that hangs holds up nobody but the hooks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._wanted: Place | None = None
        self._changed = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._caught_up.set()
        self._closing = False
        self._problem = ""

    def offer(self, place: Place) -> None:
        """Say `place` from now on, even if what was offered before was not written yet."""
        self._wanted = place
        self._caught_up.clear()
        self._changed.set()

    async def caught_up(self) -> None:
        """Until the file says what was offered last, or writing it has failed."""
        await self._caught_up.wait()

    def close(self) -> None:
        """Let `run` return as soon as the file has caught up."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Write what is offered until `close`."""
        while True:
            self._changed.clear()
            place, self._wanted = self._wanted, None
            if place is not None:
                await self._write(place)
            if self._wanted is None:
                self._caught_up.set()
                if self._closing:
                    return
                await self._changed.wait()

    async def _write(self, place: Place) -> None:
        try:
            await asyncio.to_thread(replace_file, self.path, encode(place))
        except OSError as error:
            problem = error.strerror or str(error)
            if problem != self._problem:
                told = PoolError(Reason.STATE_UNWRITABLE, path=str(self.path), problem=problem)
                log.warning(told.message, extra={"code": told.reason, "hint": told.remedy})
            self._problem = problem
        else:
            self._problem = ""


def replace_file(path: Path, text: str) -> None:
    """Make `path` a file with this text that everybody may read, in one step for its readers."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, MODE)
    with open(descriptor, "w", encoding="utf-8") as file:
        # Whatever the umask of the daemon, and whoever made the file that a crash has left.
        os.fchmod(descriptor, MODE)
        file.write(text)
    os.rename(temporary, path)


def encode(place: Place) -> str:
    """The text of the file."""
    master, incarnation = place.master, place.incarnation
    running = place.role is not Role.STOPPED
    plain: dict[str, Any] = {
        "running": running,
        "pid": os.getpid() if running else None,
        "host": {"uuid": place.host, "name": place.host_name},
        "pool": {"uuid": place.pool, "name": place.pool_name},
        "role": place.role,
        "master": None
        if master is None
        else {"uuid": master.uuid, "name": master.name, "address": master.address},
        "term": place.term,
        "incarnation": None
        if incarnation is None
        else {"counter": incarnation.counter, "uuid": incarnation.uuid},
        "revision": place.revision,
        "since": _rfc3339(place.since),
    }
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def told_before(path: Path) -> Told:
    """What hooks were told in an earlier life of the daemon, by the file it has left.

    A file that is not there or makes no sense says nothing. The master is not taken from it: which
    one a host follows is told anew after each start, as it may have changed meanwhile.
    """
    try:
        plain = json.loads(path.read_bytes())
        pool = PoolId(str(plain["pool"]["uuid"]))
        if not plain["running"] or plain["role"] != Role.MASTER:
            return Told(pool=pool)
        # Its daemon was killed: whatever `became-master` has set up is still there.
        return Told(pool=pool, mastership=(str(plain["incarnation"]["uuid"]), int(plain["term"])))
    except (OSError, ValueError, KeyError, TypeError):
        return Told()
