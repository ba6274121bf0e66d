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
REPEAT_SECONDS = 1.0
"""Before a task that has to go forward is tried again, and before its end is written again."""
MASTERSHIP_OVER = frozenset({Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN})
"""What writing gives when this mastership is over, or may be. Agents never give these."""


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
        """Take the task from its recorded step to its end.

        A `PoolError` makes it fail, but past its decision point it is run again.
        """
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


def running(state: State, operation: str, **params: str) -> Task | None:
    """A task of that operation that has not ended and has one of these params; none: no such."""

    def fits(task: Task) -> bool:
        return any(task.params.get(name) == value for name, value in params.items())

    tasks = (t for t in state.all(Task) if t.operation == operation and not t.status.is_final)
    return next(filter(fits, tasks), None)


def surplus(state: State) -> tuple[Change, ...]:
    """Removes the oldest finished tasks beyond those that are kept."""
    finished = sorted(
        (t for t in state.all(Task) if t.status.is_final), key=lambda t: t.finished or t.created
    )
    return tuple(Remove(Kind.TASK, t.uuid) for t in finished[: -FINISHED_TASKS_KEPT or None])


@dataclass(frozen=True, slots=True)
class _Asked:
    """A task that somebody wants recorded and run; they may go away before it is."""

    decide: Decide
    request: Request | None
    answer: asyncio.Future[Task]


class Operations:
    """Runs the tasks of one mastership."""

    def __init__(self, pool: Pool, kinds: tuple[Operation, ...]) -> None:
        self._pool = pool
        self._kinds = {kind.name: kind for kind in kinds}
        self._asked: asyncio.Queue[_Asked] = asyncio.Queue()
        self._running: set[str] = set()
        self._over = False

    async def run(self) -> None:
        """Resume what an earlier mastership left and run what is started, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                left = (t for t in self._pool.state.all(Task) if not t.status.is_final)
                for task in sorted(left, key=lambda t: (t.created, t.uuid)):
                    log.info("resuming task %s: %s at %s", task.uuid, task.name_label, task.step)
                    tasks.create_task(self._run(task))
                while True:
                    tasks.create_task(self._begin(await self._asked.get()))
        finally:
            self._over = True
            while not self._asked.empty():
                _tell(self._asked.get_nowait().answer, _mastership_is_over())

    async def start(self, decide: Decide, *, request: Request | None = None) -> Task:
        """Record a new task, the result of `decide`, and run it; a repeated request finds it.

        Whoever asks may go away: a task that was recorded is run all the same.
        """
        if self._over:
            raise _mastership_is_over()
        asked = _Asked(decide, request, asyncio.get_running_loop().create_future())
        self._asked.put_nowait(asked)
        return await asked.answer

    async def _begin(self, asked: _Asked) -> None:
        try:
            outcome = await self._pool.write(asked.decide, request=asked.request)
        except Exception as error:  # whatever it is, it is the answer
            _tell(asked.answer, error)
            return
        except asyncio.CancelledError:
            _tell(asked.answer, PoolError(Reason.OUTCOME_UNKNOWN))
            raise
        if outcome.repeated:
            _tell(asked.answer, self.of_outcome(outcome))
            return
        task: Task = outcome.result
        self._pool.reached(f"{task.operation}:{task.step}")
        _tell(asked.answer, task)
        if task.uuid not in self._running:
            log.info("task %s begins: %s", task.uuid, task.name_label)
            await self._run(task)

    def of_outcome(self, outcome: Outcome) -> Task:
        """The task, as it is now, that a repeated request once recorded."""
        changes = outcome.delta.changes if outcome.delta else ()
        first = next(c.object for c in changes if isinstance(c, Put) and isinstance(c.object, Task))
        return self._pool.state.get(Task, first.uuid) or first

    async def asked_again(self, task: Task, request: Request | None) -> Task:
        """Another request asks for what `task` does already: repeated, it is to find that task."""
        if request is None:
            return task

        def decide(state: State) -> Decision:
            now = state.get(Task, task.uuid)
            if now is None:
                raise PoolError(Reason.OBJECT_NOT_FOUND, kind="task", name=task.uuid)
            return Decision((Put(now),), result=now)

        outcome = await self._pool.write(decide, request=request)
        return self.of_outcome(outcome) if outcome.repeated else outcome.result

    async def cancel(self, uuid: str, *, request: Request | None = None) -> Task:
        """Ask a task to stop; `TASK_NOT_CANCELLABLE` once it has passed its decision point."""

        def decide(state: State) -> Decision:
            task = state.get(Task, uuid)
            if task is None:
                raise PoolError(Reason.OBJECT_NOT_FOUND, kind="task", name=uuid)
            if task.status.is_final or task.status is TaskStatus.CANCELLING:
                # Written though nothing changes: the same request, repeated, is to find it.
                return Decision((Put(task),), result=task)
            if not step_of(self._kinds[task.operation], task.step).cancellable:
                raise PoolError(Reason.TASK_NOT_CANCELLABLE, task=uuid, step=task.step)
            after = replace(task, status=TaskStatus.CANCELLING)
            return Decision((Put(after),), result=after)

        outcome = await self._pool.write(decide, request=request)
        return self.of_outcome(outcome) if outcome.repeated else outcome.result

    async def _run(self, task: Task) -> None:
        self._running.add(task.uuid)
        try:
            while (unfinished := await self._attempt(task)) is not None:
                await self._pool.sleep(REPEAT_SECONDS)
                task = unfinished
        finally:
            self._running.discard(task.uuid)

    async def _attempt(self, task: Task) -> Task | None:
        """Run a task. Returns it as it is when an error came after its decision point.

        From there it only goes forward, so it has to be tried again.
        """
        operation = self._kinds[task.operation]
        try:
            if task.status is TaskStatus.CANCELLING and step_of(operation, task.step).cancellable:
                raise PoolError(Reason.TASK_CANCELLED, task=task.uuid)
            await operation.run(self._pool, task)
            log.info("task %s has ended: %s", task.uuid, task.name_label)
            return None
        except PoolError as error:
            if error.reason in MASTERSHIP_OVER:
                # Whoever is master next resumes from the recorded step.
                return None
            if error.reason is not Reason.TASK_CANCELLED:
                log.warning("task %s failed: %s", task.uuid, error.message)
            failure = error
        except Exception:
            log.exception("task %s ran into an error", task.uuid)
            failure = PoolError(Reason.INTERNAL_ERROR, incident=task.uuid, host="the master")
        found = self._pool.state.get(Task, task.uuid)
        if found is None or found.status.is_final:
            return None
        if not step_of(operation, found.step).cancellable:
            return found
        await self._take_back(operation, found, failure)
        return None

    async def _take_back(self, operation: Operation, task: Task, failure: PoolError) -> None:
        """Undo a task and end it.

        That it is undone is committed first. Otherwise a master that has been replaced could undo
        what its successor goes on with.
        """

        def decide(state: State) -> Decision:
            found = state.get(Task, task.uuid)
            if found is None or found.status.is_final:
                return Decision(())
            # Whoever is master at its end tells why, even if that is another one.
            why = ended(found, self._pool.now(), failure)
            after = replace(
                found,
                status=TaskStatus.CANCELLING,
                error=found.error or why.error,
                findings=found.findings or why.findings,
            )
            return Decision((Put(after),), result=after)

        outcome = await self._insisted(task, decide)
        if outcome is not None and outcome.result is not None:
            await operation.undo(self._pool, outcome.result)
            await self._end(outcome.result, failure)

    async def _end(self, task: Task, error: PoolError) -> None:
        def decide(state: State) -> Decision:
            found = state.get(Task, task.uuid)
            if found is None or found.status.is_final:
                return Decision(())
            return Decision((Put(ended(found, self._pool.now(), error)),))

        await self._insisted(task, decide)

    async def _insisted(self, task: Task, decide: Decide) -> Outcome | None:
        """Commit what a failed task comes to; none when this mastership is over.

        The store may refuse for a while: the task must not stay under way for that.
        """
        while True:
            try:
                return await self._pool.write(decide)
            except PoolError as refusal:
                if refusal.reason in MASTERSHIP_OVER:
                    return None
                log.warning("task %s: not recorded yet: %s", task.uuid, refusal.message)
            await self._pool.sleep(REPEAT_SECONDS)


def _tell(answer: asyncio.Future[Task], outcome: Task | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _mastership_is_over() -> PoolError:
    return PoolError(Reason.NO_MASTER, host="this host", problem="its mastership has ended")


def ended(task: Task, now: datetime, error: PoolError | None = None) -> Task:
    """The task at its end: successful, cancelled or failed as `error` says."""
    if error is None:
        return replace(task, status=TaskStatus.SUCCESS, progress=1.0, finished=now)
    if error.reason is Reason.TASK_CANCELLED:
        status = TaskStatus.CANCELLED if task.error is None else TaskStatus.FAILURE
        return replace(task, status=status, finished=now)
    return replace(
        task,
        status=TaskStatus.FAILURE,
        finished=now,
        error=TaskError(reason=error.reason, params=Map(error.params)),
        findings=error.findings,
    )


async def retried(
    pool: Pool, call: Callable[[], Awaitable[None]], *, unless: frozenset[Reason]
) -> None:
    """Repeat a harmless call, at most every 2 s, until it succeeds or fails for such a reason."""
    pause = 0.1
    while True:
        try:
            return await call()
        except PoolError as error:
            if error.reason in unless:
                raise
        await pool.sleep(pause)
        pause = min(2 * pause, 2.0)
