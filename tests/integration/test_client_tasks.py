"""Waiting for work of the pool, through every kind of weather."""

import asyncio
import dataclasses
from datetime import UTC, datetime

import pytest
from immutables import Map

from poolclient import (
    Conflict,
    Failed,
    JoinRefused,
    NotFound,
    PoolClient,
    TaskCancelled,
    TaskHandle,
    TimedOut,
)
from poolcore.model import Finding, Kind, Severity, Task, TaskError, TaskStatus
from support.fake_server import FakeHost, Fault
from support.fakes import fake_hosts

REFUSED = Finding(
    code="JOINING_HOST_CANNOT_HAVE_VMS",
    severity=Severity.ERROR,
    subject="web1",
    expected="no VM",
    actual="halted",
    explanation="It has a VM.",
    remedy="Remove it.",
)
NOTED = dataclasses.replace(REFUSED, code="CLOCK_SKEW", severity=Severity.WARNING)


def advance(host: FakeHost, handle: TaskHandle, **changes: object) -> None:
    """Commit a new state of the task."""
    host.pool.put(host.pool.find(Kind.TASK, handle.uuid), **changes)


def finish(host: FakeHost, handle: TaskHandle, **changes: object) -> None:
    """Commit the task's end, a success unless said otherwise."""
    end = {"status": TaskStatus.SUCCESS, "progress": 1.0, "finished": datetime.now(UTC)}
    advance(host, handle, **{**end, **changes})


async def test_a_host_is_added_and_the_task_awaited() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.pool.findings = (NOTED,)
        handle = await pool.add_host("specter")
        assert handle.findings == (NOTED,)
        assert handle.task.params["endpoint"] == "specter"
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(handle.wait())
            await host.until_called("Watch")
            advance(host, handle, progress=0.5)
            finish(host, handle)
            task = await ended
        assert task.status is TaskStatus.SUCCESS
        assert (await handle) == task


async def test_progress_tells_each_state_once() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        steps = [0.3, 0.6, 0.9]
        seen: list[float] = []
        async for task in handle.progress:
            seen.append(task.progress)
            if steps:
                advance(host, handle, progress=steps.pop(0))
            elif not task.status.is_final:
                finish(host, handle)
        assert seen == [0.0, 0.3, 0.6, 0.9, 1.0]


async def test_a_refusal_has_every_finding() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.pool.findings = (REFUSED, NOTED)
        check = await pool.check_host("specter")
        assert not check.may_join
        assert check.findings == (REFUSED, NOTED)
        with pytest.raises(JoinRefused) as error:
            _ = await pool.add_host("specter")
        assert error.value.findings == (REFUSED, NOTED)


async def test_a_failed_task_raises_why() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        why = TaskError(reason="HOST_UNREACHABLE", params=Map(address="specter", problem="gone"))
        finish(host, handle, status=TaskStatus.FAILURE, error=why)
        with pytest.raises(Failed, match="Nothing answers at specter: gone"):
            await handle
        assert [t.status async for t in handle.progress] == [TaskStatus.FAILURE]


async def test_a_join_refused_at_the_last_moment_has_its_findings() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        why = TaskError(reason="JOIN_REFUSED", params=Map(host="specter", count="1"))
        finish(host, handle, status=TaskStatus.FAILURE, error=why, findings=(REFUSED,))
        with pytest.raises(JoinRefused) as error:
            await handle
        assert error.value.findings == (REFUSED,)


async def test_cancelling_asks_and_waiting_tells() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.eject_host("ignite")
        task = await handle.cancel()
        assert task.status is TaskStatus.CANCELLING
        finish(host, handle, status=TaskStatus.CANCELLED)
        with pytest.raises(TaskCancelled):
            await handle


async def test_cancelling_too_late_is_refused() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        advance(host, handle, step="committed")
        with pytest.raises(Conflict) as error:
            await handle.cancel()
        assert error.value.reason == "TASK_NOT_CANCELLABLE"


async def test_giving_up_waiting_leaves_the_task_running() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        with pytest.raises(TimedOut):
            await handle.wait(timeout_seconds=0.1)
        assert (await pool.tasks.get(handle.uuid)).status is TaskStatus.PENDING
        finish(host, handle)
        again = await pool.task(handle.uuid)
        assert (await again).status is TaskStatus.SUCCESS


async def test_waiting_survives_broken_streams_and_restarted_hosts() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(handle.wait())
            await host.until_called("Watch")
            host.break_streams()
            await host.until_called("Watch", 2)
            await host.stop()
            await host.start()
            finish(host, handle)
            assert (await ended).status is TaskStatus.SUCCESS


async def test_where_streams_never_last_waiting_polls() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(handle.wait())
            for n in range(3):
                await host.until_called("Watch", n + 1)
                host.break_streams()
            finish(host, handle)
            assert (await ended).status is TaskStatus.SUCCESS


async def test_adding_twice_under_one_id_is_one_task() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault("AddHost", Fault.LOST_AFTER)
        first = await pool.add_host("specter", request_id="10-abcdefgh")
        second = await pool.add_host("specter", request_id="10-abcdefgh")
        assert first.uuid == second.uuid
        assert len(await pool.tasks.list()) == 1


async def test_a_task_that_is_not_there_is_not_waited_for() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        handle = await pool.add_host("specter")
        task = host.pool.find(Kind.TASK, handle.uuid)
        assert isinstance(task, Task)
        host.pool.remove(task)
        with pytest.raises(NotFound):
            await handle
