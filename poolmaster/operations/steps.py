"""Operations as tables of recorded steps, and what runs them.

Each operation is a task object in the pool's metadata. Before it goes on it records the step it
has come to, so that a master that was killed, or its successor, goes on from there. A step says
what a restart does (`Recovery`) and what the user sees; the crash tests are generated from the
tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import Kind, Task, TaskError, TaskStatus
from poolcore.replica import Change, Put, Remove, State
from poolmaster.ledger import Decide, Decision, Outcome, Request

log = logging.getLogger(__name__)

FINISHED_TASKS_KEPT = 100


class Recovery(StrEnum):
    """What a restarted master does with a task that had come to a step."""

    RESUME = "resume"
    """Go on: everything up to here can be asked again without harm."""
    COMPLETE = "complete"
    """Go on, and never back: the decision has been made."""


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded step of an operation."""

    name: str
    recovery: Recovery
    progress: float
    shown: str
    """What the user sees while the operation is at this step."""

    @property
    def cancellable(self) -> bool:
        """Whether the operation can still be called off."""
        return self.recovery is Recovery.RESUME


class Pool(Protocol):
    """What an operation needs of the master."""

    @property
    def state(self) -> State:
        """The newest acknowledged state."""
        ...

    async def write(self, decide: Decide, *, request: Request | None = None) -> Outcome:
        """Commit a decision."""
        ...

    def now(self) -> datetime:
        """The time of day."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def reached(self, point: str) -> None:
        """Told after each recorded step; where faults are injected."""
        ...


class Operation(Protocol):
    """A kind of operation."""

    @property
    def name(self) -> str:
        """The `operation` of its tasks, for example `host.join`."""
        ...

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its steps, in order."""
        ...

    async def run(self, pool: Pool, task: Task) -> None:
        """Take the task from its recorded step to its end; `PoolError` makes it fail."""
        ...

    async def undo(self, pool: Pool, task: Task) -> None:
        """Leave nothing half-made of a task that failed or was cancelled; must not raise."""
        ...


def step_of(operation: Operation, name: str) -> Step:
    """The step of that name."""
    return next(s for s in operation.steps if s.name == name)


def at(operation: Operation, task: Task, step: str, **changes: object) -> Task:
    """The task as it is recorded at a step."""
    progress = step_of(operation, step).progress
    return replace(task, step=step, progress=progress, **changes)  # type: ignore[arg-type]


def current(state: State, task: Task, *, cancellable: bool = True) -> Task:
    """The task as it is in `state`; `TASK_CANCELLED` when it was called off meanwhile."""
    found = state.get(Task, task.uuid)
    if found is None or found.status.is_final:
        raise PoolError(Reason.TASK_CANCELLED, task=task.uuid)
    if cancellable and found.status is TaskStatus.CANCELLING:
        raise PoolError(Reason.TASK_CANCELLED, task=task.uuid)
    return found


async def record(pool: Pool, operation: Operation, task: Task, step: str) -> Task:
    """Record that the task has come to a step."""

    def decide(state: State) -> Decision:
        cancellable = step_of(operation, step).cancellable
        after = at(operation, current(state, task, cancellable=cancellable), step)
        return Decision((Put(after),), result=after)

    outcome = await pool.write(decide)
    pool.reached(f"{operation.name}:{step}")
    recorded: Task = outcome.result
    return recorded


def surplus(state: State) -> tuple[Change, ...]:
    """Removes the oldest finished tasks beyond those that are kept."""
    finished = sorted(
        (t for t in state.all(Task) if t.status.is_final), key=lambda t: t.finished or t.created
    )
    return tuple(Remove(Kind.TASK, t.uuid) for t in finished[: -FINISHED_TASKS_KEPT or None])


class Operations:
    """Runs the tasks of one mastership."""

    def __init__(self, pool: Pool, kinds: tuple[Operation, ...]) -> None:
        self._pool = pool
        self._kinds = {kind.name: kind for kind in kinds}
        self._started: asyncio.Queue[Task] = asyncio.Queue()

    async def run(self) -> None:
        """Resume what an earlier mastership left and run what is started, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for task in self._pool.state.all(Task):
                if not task.status.is_final:
                    log.info("resuming task %s (%s at %s)", task.uuid, task.operation, task.step)
                    tasks.create_task(self._run(task))
            while True:
                tasks.create_task(self._run(await self._started.get()))

    async def start(self, decide: Decide, *, request: Request | None = None) -> Task:
        """Record a new task, the result of `decide`, and run it; a repeated request finds it."""
        outcome = await self._pool.write(decide, request=request)
        if outcome.repeated:
            return self.of_outcome(outcome)
        task: Task = outcome.result
        self._pool.reached(f"{task.operation}:{task.step}")
        log.info("task %s begins: %s", task.uuid, task.name_label)
        self._started.put_nowait(task)
        return task

    def of_outcome(self, outcome: Outcome) -> Task:
        """The task, as it is now, that a repeated request once recorded."""
        changes = outcome.delta.changes if outcome.delta else ()
        first = next(c.object for c in changes if isinstance(c, Put) and isinstance(c.object, Task))
        return self._pool.state.get(Task, first.uuid) or first

    async def cancel(self, uuid: str, *, request: Request | None = None) -> Task:
        """Ask a task to stop; `TASK_NOT_CANCELLABLE` once it has passed its decision point."""

        def decide(state: State) -> Decision:
            task = state.get(Task, uuid)
            if task is None:
                raise PoolError(Reason.OBJECT_NOT_FOUND, kind="task", name=uuid)
            if task.status.is_final or task.status is TaskStatus.CANCELLING:
                return Decision((), result=task)
            if not step_of(self._kinds[task.operation], task.step).cancellable:
                raise PoolError(Reason.TASK_NOT_CANCELLABLE, task=uuid, step=task.step)
            after = replace(task, status=TaskStatus.CANCELLING)
            return Decision((Put(after),), result=after)

        outcome = await self._pool.write(decide, request=request)
        return self.of_outcome(outcome) if outcome.repeated else outcome.result

    async def _run(self, task: Task) -> None:
        operation = self._kinds[task.operation]
        try:
            await operation.run(self._pool, task)
            log.info("task %s is done: %s", task.uuid, task.name_label)
        except PoolError as error:
            if error.reason in {Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN}:
                # This mastership is over; whoever is next resumes from the recorded step.
                return
            if error.reason is not Reason.TASK_CANCELLED:
                log.warning("task %s failed: %s", task.uuid, error.message)
            await operation.undo(self._pool, task)
            await self._end(task, error)
        except Exception:
            log.exception("task %s ran into an error", task.uuid)
            await operation.undo(self._pool, task)
            await self._end(
                task, PoolError(Reason.INTERNAL_ERROR, incident=task.uuid, host="the master")
            )

    async def _end(self, task: Task, error: PoolError) -> None:
        def decide(state: State) -> Decision:
            found = state.get(Task, task.uuid)
            if found is None or found.status.is_final:
                return Decision(())
            return Decision((Put(ended(found, self._pool.now(), error)),))

        await self._pool.write(decide)


def ended(task: Task, now: datetime, error: PoolError | None = None) -> Task:
    """The task at its end: successful, cancelled or failed as `error` says."""
    if error is None:
        return replace(task, status=TaskStatus.SUCCESS, progress=1.0, finished=now)
    if error.reason is Reason.TASK_CANCELLED:
        return replace(task, status=TaskStatus.CANCELLED, finished=now)
    return replace(
        task,
        status=TaskStatus.FAILURE,
        finished=now,
        error=TaskError(reason=error.reason, params=Map(error.params)),
        findings=error.findings,
    )


async def retried(
    pool: Pool, call: Callable[[], Awaitable[None]], *, on: frozenset[Reason]
) -> None:
    """Repeat a harmless call, at most every 2 s, for as long as it fails for one of the reasons."""
    pause = 0.1
    while True:
        try:
            return await call()
        except PoolError as error:
            if error.reason not in on:
                raise
        await pool.sleep(pause)
        pause = min(2 * pause, 2.0)
