"""`pool drill failover`: a real failover on a pool of daemons, on consent."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from poolclient import BlockingPoolClient, Conflict, PoolClient
from poolcore.errors import PoolError
from poolcore.model import Accession, MasterRecord, Task, TaskStatus
from poolmanager.v1 import pool_service_pb2
from poolmaster.operations.drill import Drill
from support.cli import Outcome, Pool
from support.daemons import Cluster, Host
from support.marked_writes import writers
from support.shared_pool import SharedPool, shared_pool
from support.wholeness import at_rest, same_replicas

KEYS = {
    "old_master", "new_master", "old_term", "new_term", "outage_seconds", "acknowledged", "lost",
    "repeated",
}  # fmt: skip
CLIENTS = 8

Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against hosts while the hosts of the test go on."""

    async def run(server: str, *arguments: str) -> Outcome:
        return await asyncio.to_thread(Pool(server, capsys), *arguments)

    return run


@asynccontextmanager
async def trio(cluster: Cluster, folder: Path) -> AsyncIterator[tuple[list[Host], PoolClient]]:
    """Three hosts in one event loop on a shared store, the first of them master."""
    option = f"--store=sqlite://{folder / 'pool.db'}"
    hosts: list[Host] = [
        cluster.local("phantom", options=[option]),
        cluster.local("ignite"),
        cluster.local("specter"),
    ]
    await cluster.start()
    async with hosts[0].api() as api:
        for joining in hosts[1:]:
            await api.join(joining.endpoint)
        await api.in_step()
    async with PoolClient.connect(*(host.endpoint for host in hosts)) as pool:
        yield hosts, pool


async def test_a_drill_under_load_loses_nothing_and_says_who_is_master(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    async with shared_pool(cluster, tmp_path) as pool:
        old = await pool.master()
        term = (await pool.chain.head()).term
        asked_at = pool.others(old)[0]
        async with writers(pool.known_to(CLIENTS)) as book:
            await book.goes_on(CLIENTS)
            done = await ask(asked_at.endpoint, "drill", "failover", "--yes", "-o", "json")
            assert done.code == 0, done.err
            found = done.json
            await book.goes_on(CLIENTS)
        await pool.chain.read_on()
        book.check(pool.chain.requests)
        assert not book.refused
        assert set(found) == KEYS
        assert (found["old_term"], found["new_term"]) == (term, term + 1)
        assert (found["lost"], found["repeated"]) == (0, 0)
        assert found["acknowledged"] > 0
        assert found["outage_seconds"] > 0
        assert found["old_master"]["name_label"] == old.name
        successor = await pool.one_master()
        assert found["new_master"]["name_label"] == successor.name != old.name
        pool.check_masterships()
        async with successor.api() as api:
            state = await api.until(at_rest)
        assert "failover_drill" not in state.pool.other_config
        newest = max(state.all(MasterRecord), key=lambda record: record.term)
        assert newest.why is Accession.ELECTED
        await same_replicas(successor, *pool.others(successor))


async def test_the_mastership_comes_back_when_that_is_asked_for(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    async with trio(cluster, tmp_path) as (hosts, pool):
        ends = ",".join(host.endpoint for host in hosts)
        done = await ask(ends, "drill", "failover", "--yes", "--back")
        assert done.code == 0, done.err
        assert "phantom is the master again." in done.err
        shown = {row[0].strip(): row[1].strip() for row in done.rows}
        assert shown["Old master"] == "phantom, term 2"
        assert (shown["Lost"], shown["Repeated"]) == ("0", "0")
        master = (await pool.status()).master
        assert master is not None
        assert master.name == "phantom"


async def test_a_drill_is_refused_with_the_reason_while_the_pool_is_not_whole(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    async with trio(cluster, tmp_path) as (hosts, pool):
        before = (await pool.status()).head
        unasked = await ask(hosts[1].endpoint, "drill", "failover")
        assert (unasked.code, "--yes" in unasked.err) == (2, True)

        await pool.hosts.set("ignite", failover_priority=0)
        await pool.hosts.set("specter", failover_priority=0)
        nobody = await ask(hosts[1].endpoint, "drill", "failover", "--yes", "-o", "json")
        assert (nobody.code, nobody.error["code"]) == (5, "DRILL_REFUSED")
        assert "no other host could be the master" in nobody.error["message"]
        await pool.hosts.set("ignite", failover_priority=100)

        await hosts[2].stop()
        offline = await ask(hosts[1].endpoint, "drill", "failover", "--yes")
        assert offline.code == 5
        assert "specter is not connected" in offline.err
        with pytest.raises(Conflict, match="specter is not connected"):
            await pool.check_drill()
        after = (await pool.status()).head
        assert before is not None
        assert after is not None
        assert after.term == before.term


async def test_a_pool_whose_store_is_at_its_master_has_no_drill(cluster: Cluster, ask: Ask) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    refused = await ask(ignite.endpoint, "drill", "failover", "--yes")
    assert refused.code == 5
    assert "store is at its present master alone" in " ".join(refused.err.split())


async def test_a_master_does_nothing_without_consent_or_for_another_term(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with trio(cluster, tmp_path) as (hosts, _), hosts[0].api() as api:
        method, request = api.pools.DrillFailover, pool_service_pb2.DrillFailoverRequest
        term = (await api.status()).head.term
        checked = await api.call(method, request(term=term))
        assert not checked.HasField("task")
        assert checked.next_master.name_label in {"ignite", "specter"}
        for other in (term - 1, term + 1):
            with pytest.raises(PoolError, match=f"of term {term}, not {other}"):
                await api.call(method, request(term=other, consent=True))
        assert (await api.status()).head.term == term


async def test_a_blocking_client_has_drills_too(cluster: Cluster, tmp_path: Path) -> None:
    async with trio(cluster, tmp_path) as (hosts, _):
        ends = [host.endpoint for host in hosts]

        def drill() -> tuple[str, int]:
            with BlockingPoolClient.connect(*ends) as pool:
                expected = pool.check_drill()
                report = pool.drill_failover()
                return expected.name_label, report.lost + report.repeated

        assert await asyncio.to_thread(drill) in {("ignite", 0), ("specter", 0)}


@pytest.mark.parametrize(
    "point", [*(f"{Drill.name}:{step.name}" for step in Drill.steps), f"{Drill.name}:writes-wait"]
)
async def test_the_master_dies_when_its_drill_has_come_to(
    point: str, cluster: Cluster, tmp_path: Path
) -> None:
    async with shared_pool(cluster, tmp_path) as pool:
        old = await pool.master()
        old.kill_at(point)
        async with writers(pool.known_to(CLIENTS)) as book:
            await book.goes_on(CLIENTS)
            asking = asyncio.ensure_future(_drill(pool))  # noqa: TID251 - awaited below
            assert await old.ended() == -signal.SIGKILL
            old.kill_at()
            successor = await pool.another_master(than=old)
            await book.goes_on(CLIENTS)
            await old.start()
            await asking
        await pool.attached(successor)
        await pool.chain.read_on()
        book.check(pool.chain.requests)
        pool.check_masterships()
        async with successor.api() as api:
            state = await api.until(at_rest)
        (task,) = (t for t in state.all(Task) if t.operation == Drill.name)
        done = TaskStatus.FAILURE if point.endswith(":started") else TaskStatus.SUCCESS
        assert task.status is done
        assert await pool.one_master() is successor


async def _drill(pool: SharedPool) -> None:
    async with PoolClient.connect(*pool.endpoints) as client:
        try:
            await client.drill_failover(timeout_seconds=20.0)
        except PoolError:
            return
