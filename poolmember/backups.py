"""Backups of the pool's metadata that every host writes by itself, from its replica.

When, and how many are kept, are settings of the pool (`BackupSchedule`). It is done in a thread, on
a connection of its own, so that neither the event loop nor the replica waits for it. Whatever fails
is told once and tried again: the daemon goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from poolcore.clock import Clock
from poolcore.errors import PoolError
from poolcore.facts import StoredBackup
from poolcore.replica import State
from poolcore.wire.codec import MalformedMessage, to_proto
from poolmanager.v1 import agent_service_pb2 as pb
from poolmember.backup_folder import BackupFolder

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 10.0
"""After the start: what follows a start is more urgent."""
LOOK_SECONDS = 60.0


class Backups:
    """Writes backups when they are due; `state` gives that of the replica, none without one."""

    def __init__(
        self, folder: BackupFolder, state: Callable[[], State | None], clock: Clock
    ) -> None:
        self._folder = folder
        self._state = state
        self._clock = clock
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        seconds = FIRST_LOOK_SECONDS
        while True:
            await self._clock.sleep(seconds)
            await self.look()
            seconds = LOOK_SECONDS

    async def look(self) -> None:
        """Write a backup if one is due."""
        problem = ""
        try:
            state = self._state()
            if state is not None:
                now = self._clock.now()
                written = await asyncio.to_thread(self._folder.look, state, now=now)
                if written is not None:
                    log.info("the pool's metadata is backed up as %s", written)
        except PoolError as error:
            problem = error.message
        except (OSError, MalformedMessage) as error:
            problem = str(error)
        except Exception:
            # What the daemon is for must not end with that.
            log.exception("no backup of the pool's metadata")
        if problem and problem != self._problem:
            log.warning("no backup of the pool's metadata: %s", problem)
        self._problem = problem

    async def all(self) -> list[StoredBackup]:
        """What there is, the newest first."""
        return await asyncio.to_thread(self._folder.all)


def backup_functions(
    backups: Backups | None,
) -> Mapping[str, Callable[[Any], Coroutine[Any, Any, Any]]]:
    """`GetStoredBackups`; a host without `backups` has none."""

    async def get(_: pb.GetStoredBackupsRequest) -> pb.GetStoredBackupsResponse:
        found = await backups.all() if backups is not None else ()
        return pb.GetStoredBackupsResponse(backups=map(to_proto, found))

    return {"GetStoredBackups": get}
