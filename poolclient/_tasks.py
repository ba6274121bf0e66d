"""Tasks of the pool: operations that go on whoever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from poolclient._core import Core
from poolclient._errors import (
    NoMaster,
    NotFound,
    PoolClientError,
    TimedOut,
    client_error,
)
from poolclient._events import Event, Pause, StreamBroken, watch
from poolclient._objects import Collection
from poolclient._writes import new_request_id
from poolcore.errors import PoolError, Reason
from poolcore.model import Finding, Kind, Task, TaskId, TaskStatus
from poolcore.replica import Put
from poolcore.wire.codec import from_proto
from poolmanager.v1 import task_service_pb2


def task_error(task: Task) -> PoolClientError:
    """What a task that failed or was cancelled amounts to."""
    if task.error is None:
        return client_error(PoolError(Reason.TASK_CANCELLED, task=task.uuid))
    params = dict(task.error.params)
    try:
        reason = Reason(task.error.reason)
    except ValueError:  # of a later release
        return client_error(
            PoolError(Reason.INTERNAL_ERROR, incident=task.error.reason, host="the master")
        )
    return client_error(PoolError(reason, findings=task.findings, **params))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was last read of a task, and where in the pool's history."""

    task: Task
    incarnation: str
    revision: int


class TaskHandle:
    """A task under way.

    `await handle` waits for its end and gives the ended `Task`; if it failed, that raises why.
    `async for task in handle.progress` gives the task as it advances, its end included, and raises
    nothing for a task that fails. Giving up waiting never stops the task; `cancel` asks it to stop.
    """

    def __init__(self, core: Core, task: Task, findings: tuple[Finding, ...] = ()) -> None:
        self._core = core
        self._tasks: Collection[Task] = Collection(core, Kind.TASK)
        self.task = task
        """The task as it was last seen."""
        self.findings = findings
        """What preflight found and does not stop it."""

    @property
    def uuid(self) -> TaskId:
        """The task's uuid, by which another process can go on waiting."""
        return self.task.uuid

    def __await__(self) -> Generator[Any, None, Task]:
        return self.wait().__await__()

    async def wait(self, *, timeout_seconds: float | None = None) -> Task:
        """Wait for the end, by default as long as it takes; `TimedOut` leaves the task running."""
        try:
            async with asyncio.timeout(timeout_seconds):
                async with aclosing(self._follow()) as states:
                    async for _ in states:
                        pass
        except TimeoutError:
            raise TimedOut(Reason.DEADLINE_PASSED, seconds=f"{timeout_seconds:g}") from None
        if self.task.status is TaskStatus.SUCCESS:
            return self.task
        raise task_error(self.task)

    @property
    def progress(self) -> AsyncGenerator[Task, None]:
        """The task, now and whenever it has advanced, until it has ended."""
        return self._follow()

    async def cancel(self, *, timeout_seconds: float | None = None) -> Task:
        """Ask the task to stop; `Conflict` when it is past the point where it can.

        It has not ended yet when this returns: await the handle for that.
        """
        request = task_service_pb2.CancelTaskRequest(
            request_id=new_request_id(self._core.transport), task=self.uuid
        )
        deadline = self._core.deadline(timeout_seconds)
        answer = await self._core.transport.write(
            lambda c: c.task.CancelTask, request, deadline, request.request_id
        )
        self.task = from_proto(answer.task)
        return self.task

    async def _follow(self) -> AsyncGenerator[Task, None]:
        """The task's states: from a stream of its changes, and by asking whenever that breaks."""
        yield self.task
        pause = Pause()
        while not self.task.status.is_final:
            try:
                seen = await self._ask()
            except (NoMaster, TimedOut):
                await pause.wait()
                continue
            if seen is None:
                await pause.wait()
                continue
            if seen.task != self.task:
                pause.reset()
                self.task = seen.task
                yield self.task
            if self.task.status.is_final:
                return
            try:
                async with aclosing(self._changes(seen)) as changes:
                    async for task in changes:
                        pause.reset()
                        self.task = task
                        yield task
            except (StreamBroken, PoolClientError):
                # Whatever is wrong with the stream, asking says how the task is.
                pass
            if not self.task.status.is_final:
                await pause.wait()

    async def _ask(self) -> _Seen | None:
        """The task now; none if a host without a master does not know it yet."""
        try:
            task, freshness = await self._tasks.read(self.uuid)
        except NotFound:
            status = await self._core.status()
            if status.freshness.stale:
                return None
            raise
        return _Seen(task, freshness.incarnation, freshness.revision)

    async def _changes(self, seen: _Seen) -> AsyncGenerator[Task, None]:
        stream = watch(
            self._core.transport,
            since=seen.revision,
            incarnation=seen.incarnation,
            kinds=(Kind.TASK,),
            connect_seconds=self._core.timeout_seconds,
        )
        async with aclosing(stream):
            async for item in stream:
                if not isinstance(item, Event):
                    continue
                for change in item.changes:
                    task = change.object if isinstance(change, Put) else None
                    if isinstance(task, Task) and task.uuid == self.uuid:
                        yield task
                        if task.status.is_final:
                            return
