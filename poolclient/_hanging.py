"""Giving up a call whose host hangs.

A host that is frozen, or passes calls on to a master that is, keeps its connections and answers
nothing; only the call's deadline would tell. So a call that has not been answered for a while is
attended: when its host does not say its status either, while another one has a master, the call is
given up, as if its connection had broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from poolclient._owned import OwnedTasks

HANGING_SECONDS = 0.5
"""From then on a call is attended."""
PAUSE_SECONDS = 0.1
"""Between two looks at its host."""
STATUS_SECONDS = 0.3
"""How long hosts then have to say their status."""


class HostHangs(Exception):
    """The call was given up: its host does not answer, and another one would."""


class Attended:
    """A call under way, as a context manager around awaiting it.

    `hangs` looks once whether the call's host hangs; none where there is no other host to go to.
    When it does the call is cancelled, and `given_up` is true.
    """

    def __init__(
        self, call: Any, hangs: Callable[[], Awaitable[bool]] | None, owned: OwnedTasks
    ) -> None:
        self._call = call
        self._hangs = hangs
        self._owned = owned
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.given_up = False

    def __enter__(self) -> Self:
        if self._hangs is not None:
            # Hardly any call gets there: a timer costs it less than a task would.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(HANGING_SECONDS, self._begin, self._hangs)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self, hangs: Callable[[], Awaitable[bool]]) -> None:
        self._task = self._owned.task(self._attend(hangs))

    async def _attend(self, hangs: Callable[[], Awaitable[bool]]) -> None:
        # There is no event to wait for: nothing tells that a host hangs, it has to be looked at.
        while not await hangs():  # noqa: ASYNC110 - see above
            await asyncio.sleep(PAUSE_SECONDS)
        self.given_up = self._call.cancel()
