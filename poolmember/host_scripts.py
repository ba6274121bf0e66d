"""What scripts on the host see of the pool: `pool.json`, and the hooks.

The roles know nothing of it. Whenever they say that something has changed, and once in a while for
what nobody says, such as a pool's new name, the host's place is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from poolcore.clock import Clock
from poolcore.errors import PoolError
from poolcore.side_by_side import side_by_side
from poolmember.hooks import HookRunner
from poolmember.place import Event, Place, carried_on, news, stopped
from poolmember.pool_file import PoolFile, told_before

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class HostScripts:
    """Keeps a host's scripts informed; `seen` says how the host stands, none before it knows.

    `pool_file` is where `pool.json` is to be, `hooks_dir` where hooks are looked for, and
    `hook_seconds` the deadline of each.
    """

    def __init__(
        self,
        seen: Callable[[], Place | None],
        *,
        pool_file: Path,
        hooks_dir: Path,
        hook_seconds: float,
        clock: Clock,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._seen = seen
        self._clock = clock
        self._file = PoolFile(pool_file)
        self._hooks = HookRunner(
            hooks_dir,
            seconds=hook_seconds,
            pool_file=pool_file,
            caught_up=self._file.caught_up,
            environ=environ,
        )
        self._told = told_before(pool_file)
        self._place: Place | None = None
        self._finished = asyncio.Event()

    @property
    def last_failures(self) -> Mapping[Event, PoolError]:
        """Of each hook whose last run went wrong, or that is not run, why and what to do."""
        return self._hooks.last_failures

    def look(self) -> None:
        """Take note of how the host stands now. Waits for nothing."""
        seen = self._seen()
        if seen is None or self._finished.is_set():
            return
        self._tell(carried_on(self._place, seen))

    def finish(self) -> None:
        """The daemon ends: say so, and let `run` return within `hooks.END_SECONDS`."""
        if self._finished.is_set():
            return
        # A daemon whose state is refused never had a role, and changes nothing: what a killed one
        # before it has left is for the next one.
        if self._place is not None:
            self._tell(stopped(self._place, now=self._clock.now()))
        self._finished.set()
        self._file.close()
        self._hooks.close()

    async def run(self) -> None:
        """Until `finish`, and until what was told by then has been done."""
        try:
            await side_by_side(self._file.run(), self._hooks.run(), self._look_around())
        except Exception:  # an error of ours must neither end the host's role nor go unseen
            log.exception("scripts on this host are told nothing any more")

    def _tell(self, place: Place) -> None:
        if place == self._place:
            return
        self._place = place
        self._file.offer(place)
        events, self._told = news(self._told, place)
        for event in events:
            self._hooks.add(event, place)

    async def _look_around(self) -> None:
        while not self._finished.is_set():
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._finished.wait()
            except TimeoutError:
                # Not before the host has a role: a daemon that starts is nothing yet, and may still
                # be refused.
                if self._place is not None:
                    self.look()
