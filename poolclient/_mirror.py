"""A live copy of the pool's metadata.

The copy starts from a snapshot and follows every commit. When its stream breaks it goes on from
where it was, at another address if need be; when the pool no longer keeps what it missed, or has
gone on without the last of it, it starts again from a new snapshot. It never shows a state that the
pool never had, and within an incarnation it never goes back.

It may be behind: by the time a commit takes to arrive, or for as long as no host answers.
`barrier` is how to be sure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Self

from poolclient._core import Core
from poolclient._errors import HistoryGone, NoMaster, PoolClientError, StaleAnswer
from poolclient._events import Event, Item, Pause, StreamBroken, watch
from poolclient._owned import OwnedTasks
from poolclient._picture import Picture
from poolclient._tables import Tables
from poolcore.errors import Reason
from poolcore.model import Incarnation
from poolcore.replica import State, changed
from poolmanager.v1 import pool_service_pb2

_ANEW = frozenset({Reason.HISTORY_GONE, Reason.INCARNATION_MISMATCH})
"""Reasons to start again from a snapshot."""


class Mirror(Tables):
    """See the module's docstring. Use it as `async with pool.mirror() as mirror`.

    `mirror.vms`, `mirror.hosts` and so on are tables of views (`poolclient._views`) of the copy as
    it is when they are asked for; what one table gives out does not change afterwards.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._owned = OwnedTasks()
        self._picture: Picture | None = None
        self._of: Incarnation | None = None
        """The incarnation of what comes next, as the stream says."""
        self._moved = asyncio.Event()
        self._failed: PoolClientError | None = None
        self.connected = False
        """Whether the stream that feeds the copy is up."""

    async def __aenter__(self) -> Self:
        deadline = self._core.deadline(None)
        self._owned.start(self._run())
        try:
            await self._until(lambda: self._picture is not None, deadline.remaining)
        except TimeoutError:
            await self._owned.close()
            raise deadline.error() from None
        except BaseException:
            await self._owned.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._owned.close()

    def _now(self) -> Picture:
        if self._picture is None:
            raise RuntimeError("use the mirror as `async with pool.mirror() as mirror`")
        return self._picture

    # -- waiting ----------------------------------------------------------------------------------

    async def barrier(self, *, timeout_seconds: float | None = None) -> None:
        """Wait until the copy contains everything that was committed before this call.

        `StaleAnswer` when no master can say what that is, `TimedOut` when it takes too long.
        """
        deadline = self._core.deadline(timeout_seconds)
        _, freshness = await self._core.transport.read(
            lambda c: c.pool.GetPool, pool_service_pb2.GetPoolRequest(), deadline
        )
        if freshness.stale:
            raise StaleAnswer(
                Reason.STALE_ANSWER,
                revision=str(freshness.revision),
                age_seconds="?"
                if freshness.age_seconds is None
                else f"{freshness.age_seconds:.1f}",
            )

        def reached() -> bool:
            state = self.state
            same = state.incarnation.uuid == freshness.incarnation
            return same and state.revision >= freshness.revision

        try:
            await self._until(reached, deadline.remaining)
        except TimeoutError:
            raise deadline.error() from None

    async def wait_for(
        self, condition: Callable[[Self], bool], *, timeout_seconds: float | None = None
    ) -> None:
        """Wait until `condition(mirror)` holds; `TimedOut` when it takes too long."""
        deadline = self._core.deadline(timeout_seconds)
        try:
            await self._until(lambda: condition(self), deadline.remaining)
        except TimeoutError:
            raise deadline.error() from None

    async def changes(self) -> AsyncGenerator[State, None]:
        """The copy whenever it has moved on; several commits may be told as one."""
        shown = self.state
        while True:
            await self._until(partial(self._is_beyond, shown), None)
            shown = self.state
            yield shown

    def _is_beyond(self, state: State) -> bool:
        return self.state is not state

    async def _until(self, holds: Callable[[], bool], seconds: float | None) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                if self._failed is not None:
                    raise self._failed
                await self._moved.wait()

    def _show(self, picture: Picture | None) -> None:
        self._picture = picture or self._picture
        self._moved.set()
        self._moved = asyncio.Event()

    # -- following --------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = Pause()
        anew = True
        while True:
            state = None if anew or self._picture is None else self._picture.state
            stream = watch(
                self._core.transport,
                since=None if state is None else state.revision,
                incarnation=None if state is None else state.incarnation.uuid,
                connect_seconds=self._core.timeout_seconds,
            )
            try:
                async with aclosing(stream):
                    async for item in stream:
                        self.connected, anew = True, False
                        pause.reset()
                        self._take(item)
            except (StreamBroken, NoMaster):
                pass
            except HistoryGone:
                anew = True
            except PoolClientError as error:
                if error.reason not in _ANEW:
                    self._failed = error
                    self._show(None)
                    return
                anew = True
            finally:
                self.connected = False
            await pause.wait()

    def _take(self, item: Item) -> None:
        if isinstance(item, State):
            self._of = item.incarnation
            self._show(Picture(item))
        elif isinstance(item, Event):
            before = self._now().state
            tables = changed(before.tables, item.changes)
            self._core.transport.horizon.advance(item.incarnation, item.revision)
            of = self._of or before.incarnation
            self._show(Picture(State(of, item.commit, tables)))
        else:
            # The chain may have gone on in another incarnation: what follows is of that.
            self._of = item.incarnation
