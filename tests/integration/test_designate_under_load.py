"""Handing the mastership over while clients write, and hosts that die meanwhile.

How often it is handed over in a row: `DESIGNATIONS` in the environment, 6 without it.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import pytest

from poolclient import PoolClient
from poolcore.errors import PoolError
from poolcore.model import Accession, MasterRecord, Task, TaskStatus
from poolmaster.operations.designate import Designate
from support.daemons import Cluster, ProcessHost
from support.marked_writes import writers
from support.shared_pool import SharedPool, shared_pool
from support.watching import check_told, watcher
from support.wholeness import at_rest, same_replicas

DESIGNATIONS = int(os.environ.get("DESIGNATIONS", "6"))
CLIENTS = 16
GOES_ON_SECONDS = 10.0
"""Far more than any change of master takes."""

OLD, TARGET, THIRD = "the old master", "the target", "a third host"
POINTS = {
    **{f"{Designate.name}:{step.name}": OLD for step in Designate.steps},
    f"{Designate.name}:writes-wait": OLD,
    "host.take_over:asked": TARGET,
    "host.take_over:claimed": TARGET,
    f"{Designate.name}:done": TARGET,
}
"""The steps of a handover that goes well, in order, and at which host each is taken."""
BEFORE_THE_CLAIM = list(POINTS)[:4]


async def test_no_call_fails_and_no_write_is_lost_while_the_mastership_goes_back_and_forth(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    async with (
        shared_pool(cluster, tmp_path, url=store_url) as pool,
        PoolClient.connect(*pool.endpoints) as client,
        watcher(pool) as watching,
    ):
        async with writers(pool.known_to(CLIENTS)) as book:
            await book.goes_on(CLIENTS)
            for host in islice(cycle(("ignite", "phantom")), DESIGNATIONS):
                task = await (await client.designate_master(host))
                assert task.status is TaskStatus.SUCCESS
                await book.goes_on(CLIENTS)
                await pool.chain.read_on()
        await check_told(pool, watching)
        book.check(pool.chain.requests)
        assert not book.refused
        assert not book.unknown
        reigns = sorted(await client.master_records.list(), key=_term)[-DESIGNATIONS:]
        assert [reign.why for reign in reigns] == [Accession.DESIGNATED] * len(reigns)
        pool.check_masterships()
        await same_replicas(await pool.one_master(), *pool.hosts)


def _term(record: MasterRecord) -> int:
    return record.term


@pytest.mark.parametrize("dying", [OLD, TARGET, THIRD])
@pytest.mark.parametrize("point", POINTS)
async def test_a_host_dies_when_a_designation_has_come_to(
    point: str, dying: str, cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    """The host that has come to the step stands still there until the other one is dead."""
    async with shared_pool(cluster, tmp_path, url=store_url) as pool, watcher(pool) as watching:
        hosts = dict(zip((OLD, TARGET, THIRD), pool.hosts, strict=True))
        before = await pool.chain.head()
        here, victim = hosts[POINTS[point]], hosts[dying]
        async with writers(pool.known_to(CLIENTS)) as book, asyncio.TaskGroup() as tasks:
            await book.goes_on(CLIENTS)
            here.stop_at(point)
            asking = tasks.create_task(_designate(pool, hosts[TARGET]))
            await here.stopped()
            here.stop_at()
            await victim.kill()
            if victim is not here:
                here.signal(signal.SIGCONT)
            async with asyncio.timeout(GOES_ON_SECONDS):
                await book.goes_on(CLIENTS)
            await victim.start()
            asking.cancel()
        master = await pool.one_master()
        await pool.attached(master)
        await _ended_well_or_with_a_reason(master)
        await check_told(pool, watching)
        book.check(pool.chain.requests)
        pool.check_masterships()
        await same_replicas(master, *pool.others(master))
        await _check_outcome(pool, point, dying, hosts, first_term=before.term)


async def _designate(pool: SharedPool, target: ProcessHost) -> None:
    """Ask for the handover; what it comes to is looked up afterwards."""
    async with PoolClient.connect(*pool.endpoints) as client:
        try:
            await (await client.designate_master(target.name))
        except PoolError:
            return


async def _ended_well_or_with_a_reason(master: ProcessHost) -> None:
    async with master.api() as api:
        state = await api.until(at_rest)
    for task in state.all(Task):
        assert task.status is TaskStatus.SUCCESS or task.error, task


async def _check_outcome(
    pool: SharedPool,
    point: str,
    dying: str,
    hosts: Mapping[str, ProcessHost],
    *,
    first_term: int,
) -> None:
    """Where it is certain how it ends; where somebody is elected, that may be anybody alive."""
    head, master = await pool.chain.head(), await pool.master()
    designated = (hosts[TARGET], first_term + 1)
    if dying == THIRD:
        assert (master, head.term) == designated
    elif dying == TARGET and point in BEFORE_THE_CLAIM:
        # The old master waits for a target that is behind, and this one comes back.
        assert (master, head.term) in {designated, (hosts[OLD], first_term)}
    else:
        assert head.term > first_term
