"""What runs the tasks: whoever asked, however often, and whatever goes wrong on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Task, TaskId, TaskStatus
from poolcore.replica import CommitId, Delta, Put, State, changed
from poolmaster.ledger import Decide, Decision, Outcome, Request
from poolmaster.operations.steps import Operation, Operations, Pool, Recovery, Step, at, ended
from support.small_pool import small_pool

THEN = datetime(2026, 1, 1, tzinfo=UTC)
TASK = TaskId("80000000-0000-4000-8000-000000000001")


class WritablePool:
    """Commits at once, or when `gate` is opened; `waits` tells that a write is there.

    The first commit records a task; after it, `refusals` come first.
    """

    def __init__(self) -> None:
        self.state = small_pool()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waits = asyncio.Event()
        self.refusals: list[PoolError] = []
        self.slept = 0
        self.ended = asyncio.Event()

    async def write(self, decide: Decide, *, request: Request | None = None) -> Outcome:
        self.waits.set()
        await self.gate.wait()
        if self.refusals and self.state.get(Task, TASK):
            raise self.refusals.pop(0)
        decision = decide(self.state)
        last = CommitId(1, self.state.revision + 1)
        delta = Delta(
            incarnation=self.state.incarnation.uuid,
            commit=last,
            predecessor=self.state.last,
            changes=decision.changes,
        )
        tables = changed(self.state.tables, decision.changes)
        self.state = replace(self.state, last=last, tables=tables)
        task = self.state.get(Task, TASK)
        if task is not None and task.status.is_final:
            self.ended.set()
        return Outcome(last.revision, delta, decision.result)

    def now(self) -> datetime:
        return THEN

    async def sleep(self, seconds: float) -> None:
        self.slept += 1
        await asyncio.sleep(0)

    def reached(self, point: str) -> None:
        pass


@dataclass
class Brewing:
    """An operation that fails as often as it is told to, before or after its decision point."""

    failures: list[Exception] = field(default_factory=list)
    decide_first: bool = False
    runs: int = 0
    undone: int = 0
    finish: asyncio.Event = field(default_factory=asyncio.Event)

    name = "coffee.brew"
    steps = (
        Step("started", Recovery.RESUME, 0.1, "water"),
        Step("decided", Recovery.COMPLETE, 0.5, "coffee"),
    )

    async def run(self, pool: Pool, task: Task) -> None:
        self.runs += 1
        if self.decide_first and task.step == "started":
            task = at(self, task, "decided")
            await pool.write(lambda _: Decision((Put(task),)))
        if self.failures:
            raise self.failures.pop(0)
        await self.finish.wait()
        await pool.write(lambda _: Decision((Put(ended(task, THEN)),)))

    async def undo(self, pool: Pool, task: Task) -> None:
        self.undone += 1


def begin(state: State) -> Decision:
    """Records the task, or finds it."""
    new = Task(uuid=TASK, name_label="Brew", operation=Brewing.name, step="started", created=THEN)
    task = state.get(Task, TASK) or new
    return Decision((Put(task),), result=task)


@asynccontextmanager
async def running(pool: WritablePool, operation: Operation) -> AsyncIterator[Operations]:
    operations = Operations(pool, (operation,))
    async with asyncio.TaskGroup() as tasks:
        runner = tasks.create_task(operations.run())
        yield operations
        runner.cancel()


async def final(pool: WritablePool) -> Task:
    await asyncio.wait_for(pool.ended.wait(), 5.0)
    task = pool.state.get(Task, TASK)
    assert task is not None
    return task


async def test_a_task_whose_asker_went_away_while_it_was_recorded_is_run() -> None:
    pool, operation = WritablePool(), Brewing()
    operation.finish.set()
    pool.gate.clear()
    async with running(pool, operation) as operations:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await operations.start(begin)
        pool.gate.set()
        assert (await final(pool)).status is TaskStatus.SUCCESS


async def test_a_task_that_two_ask_for_is_run_once() -> None:
    pool, operation = WritablePool(), Brewing()
    async with running(pool, operation) as operations:
        first = await operations.start(begin)
        assert await operations.start(begin) == first
        operation.finish.set()
        await final(pool)
    assert operation.runs == 1


async def test_a_task_that_fails_before_its_decision_is_undone() -> None:
    pool, operation = WritablePool(), Brewing([PoolError(Reason.HOST_OFFLINE, host="ignite")])
    async with running(pool, operation) as operations:
        await operations.start(begin)
        task = await final(pool)
    assert (task.status, operation.undone) == (TaskStatus.FAILURE, 1)
    assert task.error is not None
    assert task.error.reason == Reason.HOST_OFFLINE


@pytest.mark.parametrize("failure", [PoolError(Reason.HOST_OFFLINE, host="x"), OSError("a bug")])
async def test_past_its_decision_a_task_only_goes_forward(failure: Exception) -> None:
    pool, operation = WritablePool(), Brewing([failure, failure], decide_first=True)
    operation.finish.set()
    async with running(pool, operation) as operations:
        await operations.start(begin)
        task = await final(pool)
    assert (task.status, operation.runs, operation.undone) == (TaskStatus.SUCCESS, 3, 0)


async def test_a_failed_task_ends_although_the_store_refuses_for_a_while() -> None:
    pool, operation = WritablePool(), Brewing([PoolError(Reason.HOST_OFFLINE, host="ignite")])
    async with running(pool, operation) as operations:
        pool.refusals = [PoolError(Reason.STORE_UNAVAILABLE, problem="the disk is full")] * 3
        await operations.start(begin)
        task = await final(pool)
    assert (task.status, pool.slept) == (TaskStatus.FAILURE, 3)


async def test_a_mastership_that_ends_leaves_its_tasks_to_the_next() -> None:
    pool = WritablePool()
    operation = Brewing([PoolError(Reason.NO_MASTER, host="phantom", problem="it is over")])
    async with running(pool, operation) as operations:
        await operations.start(begin)
        await asyncio.sleep(0)
    task = pool.state.get(Task, TASK)
    assert task is not None
    assert (task.status, operation.undone) == (TaskStatus.PENDING, 0)


async def test_whoever_asks_at_the_end_of_a_mastership_gets_an_answer() -> None:
    pool = WritablePool()
    pool.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        async with running(pool, Brewing()) as operations:
            recording = tasks.create_task(answer_of(operations))
            await pool.waits.wait()
        assert (await recording) is Reason.OUTCOME_UNKNOWN
    assert await answer_of(operations) is Reason.NO_MASTER


async def answer_of(operations: Operations) -> Reason:
    with pytest.raises(PoolError) as refused:
        await operations.start(begin)
    return refused.value.reason
