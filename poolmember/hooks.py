"""Hooks: executables of this host's administrator, run when its place in the pool changes.

They are told after the fact, one at a time, in the order of the events. Nothing in the daemon
waits for them, except its end, for `END_SECONDS` at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from poolcore.errors import PoolError, Reason
from poolmember.hook_process import (
    HookFailed,
    HookTimedOut,
    distrusted,
    minimal_environment,
    run_hook,
)
from poolmember.place import Event, Place

log = logging.getLogger(__name__)

END_SECONDS = 8.0
"""How long a daemon that ends goes on with hooks: half of what is left for each."""
LEAST_SECONDS = 0.2
"""A hook that would get less than this is not begun."""


class HookRunner:
    """Runs the hooks in a directory.

    Of each kind of event only the last one waits: the queue is as long as there are kinds.
    `caught_up` returns when `pool_file` says what the events are about; `environ` is where PATH,
    HOME and LANG of the hooks come from.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        pool_file: Path,
        caught_up: Callable[[], Awaitable[None]],
        environ: Mapping[str, str],
        end_seconds: float = END_SECONDS,
    ) -> None:
        self._folder = folder
        self._seconds = seconds
        self._pool_file = pool_file
        self._caught_up = caught_up
        self._environ = environ
        self._end_seconds = end_seconds
        self._waiting: dict[Event, Place] = {}
        self._arrived = asyncio.Event()
        self._end: float | None = None
        """On the loop's clock: when nothing more is run."""
        self._deadline: asyncio.Timeout | None = None
        self._failures: dict[Event, PoolError] = {}

    @property
    def last_failures(self) -> Mapping[Event, PoolError]:
        """Of each hook whose last run went wrong, or that is not run, why and what to do."""
        return dict(self._failures)

    def add(self, event: Event, place: Place) -> None:
        """Run the event's hook when its turn comes, and tell it of `place`."""
        if self._waiting.pop(event, None) is not None:
            log.info("hook %s waits already; it is run once, for the newer event", event)
        self._waiting[event] = place
        self._arrived.set()

    def close(self) -> None:
        """Let `run` return when nothing waits any more, in `end_seconds` at the latest."""
        now = asyncio.get_running_loop().time()
        self._end = now + self._end_seconds
        self._arrived.set()
        deadline = self._deadline
        if deadline is not None and not deadline.expired():
            when = now + self._allowed()
            deadline.reschedule(min(when, deadline.when() or when))

    async def run(self) -> None:
        """Run hooks until `close`."""
        while True:
            self._arrived.clear()
            while self._waiting:
                event = next(iter(self._waiting))
                await self._run(event, self._waiting.pop(event))
            if self._end is not None:
                return
            await self._arrived.wait()

    def _allowed(self) -> float:
        """Seconds that a hook may take now."""
        if self._end is None:
            return self._seconds
        left = self._end - asyncio.get_running_loop().time()
        return min(self._seconds, left / 2)

    async def _run(self, event: Event, place: Place) -> None:
        path = self._folder / event
        try:
            if not await self._may_run(event):
                return
            await self._caught_up()
            seconds = self._allowed()
            if seconds < min(LEAST_SECONDS, self._seconds):
                raise HookFailed("the daemon ended before its turn came")
            environment = minimal_environment(self._environ) | hook_environment(
                place, self._pool_file
            )
            log.info("running hook %s", event)
            await run_hook(path, environment, seconds=seconds, limited=self._limited)
        except HookTimedOut as error:
            self._failed(event, self._timed_out(event, error.seconds))
        except HookFailed as error:
            self._failed(event, self._failure(event, str(error)))
        else:
            self._failures.pop(event, None)
        finally:
            self._deadline = None

    def _timed_out(self, event: Event, seconds: float) -> PoolError:
        if self._end is not None and seconds < self._seconds:
            return self._failure(event, "it had not ended when the daemon did")
        return PoolError(
            Reason.HOOK_TIMED_OUT,
            hook=event,
            path=str(self._folder / event),
            seconds=f"{self._seconds:g}",
        )

    def _failure(self, event: Event, problem: str) -> PoolError:
        path = str(self._folder / event)
        return PoolError(Reason.HOOK_FAILED, hook=event, path=path, problem=problem)

    def _limited(self, deadline: asyncio.Timeout) -> None:
        self._deadline = deadline

    async def _may_run(self, event: Event) -> bool:
        """Whether there is such a hook, and it may be trusted; a refusal is logged once."""
        try:
            problem = await asyncio.to_thread(distrusted, self._folder, event)
        except (FileNotFoundError, NotADirectoryError):
            self._failures.pop(event, None)
            return False
        except OSError as error:
            problem = error.strerror or str(error)
        if problem is None:
            return True
        path = str(self._folder / event)
        refusal = PoolError(Reason.HOOK_REFUSED, hook=event, path=path, problem=problem)
        before = self._failures.get(event)
        if before is None or before.message != refusal.message:
            self._failed(event, refusal)
        return False

    def _failed(self, event: Event, error: PoolError) -> None:
        self._failures[event] = error
        log.warning(error.message, extra={"code": error.reason, "hint": error.remedy})


def hook_environment(place: Place, pool_file: Path) -> dict[str, str]:
    """What a hook is told in its environment; what is not known is empty."""
    master = place.master
    told = {
        "POOL_UUID": place.pool,
        "POOL_NAME": place.pool_name,
        "POOL_ROLE": place.role,
        "POOL_MASTER": master.name if master is not None else None,
        "POOL_MASTER_UUID": master.uuid if master is not None else None,
        "POOL_MASTER_ADDRESS": master.address if master is not None else None,
        "POOL_TERM": str(place.term),
        "POOL_HOST": place.host_name,
        "POOL_HOST_UUID": place.host,
        "POOL_FILE": str(pool_file),
    }
    # A name with a zero byte would be no environment at all.
    return {key: (value or "").replace("\0", "") for key, value in told.items()}
