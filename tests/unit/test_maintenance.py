"""Maintenance of a host, decision by decision; who could take over is told by the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, Host, HostId, Task, TaskId, TaskStatus
from poolcore.replica import CommitId, Delta, Put, State, changed
from poolmaster.ledger import Decide, Outcome, Request
from poolmaster.operations.designate import Handover
from poolmaster.operations.maintenance import Maintenance
from poolmaster.sessions import Sessions
from support.small_pool import IGNITE, PHANTOM, THEN, host, small_pool

SPECTER = HostId("20000000-0000-4000-8000-000000000003")
TASK = TaskId("80000000-0000-4000-8000-000000000001")
OTHER = TaskId("80000000-0000-4000-8000-000000000002")


class Everybody(Sessions):
    """Whoever is asked about has come."""

    def __init__(self) -> None:
        self.asked_about: list[HostId] = []

    async def had_time(self, host: HostId) -> None:
        self.asked_about.append(host)


class Told(Handover):
    """Hands over to `to_whom`, unless that fails of `failure`."""

    def __init__(self, to_whom: HostId | None = None, failure: PoolError | None = None) -> None:
        self.to_whom, self.failure = to_whom, failure
        self.went_to: list[HostId] = []

    def best(self, state: State, *, in_maintenance: bool = False) -> Host | None:
        return None if self.to_whom is None else state.host(self.to_whom)

    def check(self, state: State, host: HostId, *, in_maintenance: bool = False) -> Host:
        raise PoolError(Reason.HOST_OFFLINE, host=state.host(host).name_label)

    async def to(
        self, host: Host, why: Accession, *, announced: Callable[[], None] = lambda: None
    ) -> None:
        announced()
        if self.failure is not None:
            raise self.failure
        self.went_to.append(host.uuid)


class SmallPool:
    """Commits at once. Implements `operations.steps.Pool`."""

    def __init__(self) -> None:
        self.state = small_pool()
        self.deltas: list[Delta] = []
        self.points: list[str] = []

    async def write(self, decide: Decide, *, request: Request | None = None) -> Outcome:
        decision = decide(self.state)
        last = CommitId(1, self.state.revision + 1)
        delta = Delta(
            incarnation=self.state.incarnation.uuid,
            commit=last,
            predecessor=self.state.last,
            changes=decision.changes,
        )
        self.deltas.append(delta)
        tables = changed(self.state.tables, decision.changes)
        self.state = replace(self.state, last=last, tables=tables)
        return Outcome(last.revision, delta, decision.result)

    def now(self) -> datetime:
        return THEN

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")

    def reached(self, point: str) -> None:
        self.points.append(point)

    def enabled(self, host: HostId) -> bool:
        return self.state.host(host).enabled

    def task(self, uuid: TaskId = TASK) -> Task:
        found = self.state.get(Task, uuid)
        assert found is not None
        return found


def at(master: HostId, handover: Handover | None = None) -> Maintenance:
    """The operation as `master` has it."""
    return Maintenance(handover or Told(), Everybody(), master)


async def begun(
    pool: SmallPool, operation: Maintenance, host: HostId, *, force: bool = False
) -> Task:
    """The task that asking for a maintenance comes to."""
    outcome = await pool.write(operation.begin(pool, TASK, host, force=force))
    task: Task = outcome.result
    return task


async def test_a_member_is_in_maintenance_with_the_commit_that_records_it() -> None:
    pool, operation = SmallPool(), at(PHANTOM)
    task = await begun(pool, operation, IGNITE)
    assert (task.status, pool.enabled(IGNITE)) == (TaskStatus.SUCCESS, False)
    assert len(pool.deltas) == 1
    assert task.name_label == "Put ignite into maintenance"

    # Asked again it is no error, and the host is not written again.
    await pool.write(operation.begin(pool, OTHER, IGNITE, force=False))
    assert [c.object.KIND for c in pool.deltas[-1].changes if isinstance(c, Put)] == ["task"]

    await pool.write(operation.finish(pool, OTHER, IGNITE))
    assert pool.enabled(IGNITE)


async def test_a_master_hands_over_and_the_next_one_disables_it() -> None:
    pool, handover = SmallPool(), Told(IGNITE)
    before = at(PHANTOM, handover)
    task = await begun(pool, before, PHANTOM)
    assert (task.step, task.status) == ("started", TaskStatus.PENDING)
    await before.run(pool, task)
    assert handover.went_to == [IGNITE]
    assert (pool.task().step, pool.enabled(PHANTOM)) == ("handing-over", True)

    after = at(IGNITE)
    await after.run(pool, pool.task())
    assert (pool.task().status, pool.enabled(PHANTOM)) == (TaskStatus.SUCCESS, False)
    assert pool.points == [
        "host.maintenance:handing-over",
        "host.maintenance:writes-wait",
        "host.maintenance:done",
    ]


async def test_a_master_that_nobody_can_replace_is_refused_and_says_why() -> None:
    pool, operation = SmallPool(), at(PHANTOM)
    with pytest.raises(PoolError) as refused:
        await begun(pool, operation, PHANTOM)
    assert refused.value.reason is Reason.NO_HOST_TO_LEAD
    assert "ignite is not connected to the master" in refused.value.message
    assert "--force" in refused.value.remedy
    assert (pool.deltas, pool.enabled(PHANTOM)) == ([], True)

    task = await begun(pool, operation, PHANTOM, force=True)
    assert (task.status, pool.enabled(PHANTOM)) == (TaskStatus.SUCCESS, False)
    # In maintenance already, it is none the worse for being asked again.
    await pool.write(operation.begin(pool, OTHER, PHANTOM, force=False))
    assert pool.task(OTHER).status is TaskStatus.SUCCESS


async def test_a_handover_that_fails_leaves_the_host_as_it_was_unless_forced() -> None:
    failure = PoolError(Reason.HANDOVER_FAILED, host="ignite", problem="it did not answer")
    for force in (False, True):
        pool = SmallPool()
        operation = at(PHANTOM, Told(IGNITE, failure))
        task = await begun(pool, operation, PHANTOM, force=force)
        if force:
            await operation.run(pool, task)
        else:
            with pytest.raises(PoolError, match="ignite did not take over"):
                await operation.run(pool, task)
        assert pool.enabled(PHANTOM) is not force


async def test_a_master_that_has_just_begun_lets_hosts_come_before_it_calls_them_away() -> None:
    pool, sessions = SmallPool(), Everybody()
    operation = Maintenance(Told(), sessions, PHANTOM)
    await operation.known(pool.state, IGNITE)
    assert sessions.asked_about == []
    await operation.known(pool.state, PHANTOM)
    assert set(sessions.asked_about) == {PHANTOM, IGNITE}


async def test_ending_a_maintenance_calls_off_one_that_is_just_begun() -> None:
    pool, operation = SmallPool(), at(PHANTOM, Told(IGNITE))
    task = await begun(pool, operation, PHANTOM)
    # The same again is the same task, also for a request of another id.
    again = await pool.write(operation.begin(pool, OTHER, PHANTOM, force=False))
    assert again.result.uuid == task.uuid

    await pool.write(operation.finish(pool, OTHER, PHANTOM))
    assert pool.task().status is TaskStatus.CANCELLED
    with pytest.raises(PoolError) as called_off:
        await operation.run(pool, task)
    assert called_off.value.reason is Reason.TASK_CANCELLED
    assert pool.enabled(PHANTOM)


async def test_a_host_that_left_meanwhile_is_not_found() -> None:
    pool, operation = SmallPool(), at(PHANTOM)
    with pytest.raises(PoolError) as unknown:
        await begun(pool, operation, SPECTER)
    assert unknown.value.reason is Reason.OBJECT_NOT_FOUND


async def test_a_refusal_names_a_few_hosts_at_most() -> None:
    pool = SmallPool()
    many = [host(HostId(f"29000000-0000-4000-8000-00000000000{n}"), f"h{n}", 9) for n in range(5)]
    tables = changed(pool.state.tables, map(Put, many))
    pool.state = replace(pool.state, tables=tables)
    with pytest.raises(PoolError) as refused:
        await begun(pool, at(PHANTOM), PHANTOM)
    problem = refused.value.params["problem"]
    assert problem.startswith("h0 is not connected to the master; h1 is not")
    assert problem.endswith("; h2 is not connected to the master; …")
