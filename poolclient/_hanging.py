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

    `hangs` looks once whether the call's host hangs. When it does the call is cancelled, and
    `given_up` is true.
    """

    def __init__(self, call: Any, hangs: Callable[[], Awaitable[bool]], owned: OwnedTasks) -> None:
        self._call = call
        self._hangs = hangs
        self._owned = owned
        self._task: asyncio.Task[None] | None = None
        self.given_up = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Hardly any call gets there: a timer costs it less than a task would.
        self._timer = loop.call_later(HANGING_SECONDS, self._begin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._owned.task(self._attend())

    async def _attend(self) -> None:
        # Nothing tells that a host hangs: it has to be looked at.
        while not await self._hangs():  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_SECONDS)
        self.given_up = self._call.cancel()
