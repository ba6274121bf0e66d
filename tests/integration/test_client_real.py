"""The client with real daemons: hosts that join, die, freeze and come back."""

import asyncio
import signal
from contextlib import aclosing

import pytest

from poolclient import (
    BlockingPoolClient,
    InvalidRequest,
    JoinRefused,
    NoMaster,
    NotFound,
    PoolClient,
    StaleAnswer,
)
from poolcore.model import Kind, TaskStatus
from support.daemons import SHARED_SRS, Cluster

WEB1 = """
[[vm]]
name = "web1"
power_state = "running"
memory_mib = 512
"""


async def joined(pool: PoolClient, endpoint: str) -> None:
    """Add a host and wait until it has joined."""
    try:
        assert (await (await pool.add_host(endpoint))).status is TaskStatus.SUCCESS
    except JoinRefused as refused:
        pytest.fail(f"refused: {refused.findings}")


async def test_a_pool_grows_host_by_host(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom", sim=SHARED_SRS + WEB1), cluster.local("ignite")
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        assert len(await pool.srs.list()) == 6
        check = await pool.check_host(ignite.endpoint)
        assert (check.host_name, check.may_join, check.findings) == ("ignite", True, ())
        handle = await pool.add_host(ignite.endpoint)
        progress = [task.progress async for task in handle.progress]
        assert progress == sorted(progress)
        assert progress[-1] == 1.0
        assert (await handle).status is TaskStatus.SUCCESS
        assert len(await pool.srs.list()) == 9
    async with PoolClient.connect(ignite.endpoint, require_fresh=True) as pool:
        assert len(await pool.srs.list()) == 9
        done = await pool.vms.set("web1", add_tags=["prod"], other_config={"owner": "ops"})
        web1 = await pool.vms.get("web1")
        assert (web1, pool.revision) == (done.object, done.revision)
        status = await pool.status()
        assert status.master is not None
        assert status.master.name == "phantom"
        assert {h.name: h.role.value for h in status.hosts} == {
            "phantom": "master",
            "ignite": "member",
        }
        report = await pool.host_report()
        assert report.facts.name_label == "ignite"
        assert abs(report.clock_offset_seconds) < 1


def foreseen_by_the_twin(address: str, since: int) -> None:
    """What the blocking client says of the same pool."""
    with BlockingPoolClient.connect(address) as pool:
        assert pool.hosts.set("ignite", failover_priority=0).object.failover_priority == 0
        outlook, _ = pool.if_lost("phantom")
        assert outlook.next_master is None
        assert [d.name_label for d in pool.diff(since).objects] == ["ignite"]
        assert [reign.why for reign in pool.master_history()] == ["restarted", "founded"]
        for maintenance in (True, False):
            task = pool.set_maintenance("ignite", maintenance).wait()
            assert task.status is TaskStatus.SUCCESS
            assert pool.hosts.get("ignite").enabled is not maintenance


async def test_what_an_administrator_asks_before_and_after(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom", sim=WEB1), cluster.local("ignite")
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        await joined(pool, ignite.endpoint)
        host = (await pool.hosts.set("ignite", failover_priority=7, add_tags=["b"])).object
        assert (host.failover_priority, host.tags) == (7, frozenset({"b"}))
        with pytest.raises(InvalidRequest):
            await pool.hosts.set("ignite", failover_priority=1001)
        outlook, freshness = await pool.if_lost(host, "phantom")
        assert (len(outlook.lost), outlook.next_master, freshness.stale) == (2, None, False)
        now, _ = await pool.if_lost()
        assert now.next_master == now.master
        with pytest.raises(NotFound):
            await pool.if_lost("specter")

        difference = await pool.diff(pool.revision - 1)
        assert (difference.since, difference.until) == (pool.revision - 1, pool.revision)
        (changed,) = difference.objects
        assert {f.field: (f.before, f.after) for f in changed.fields} == {
            "failover_priority": (100, 7),
            "tags": ([], ["b"]),
        }
        with pytest.raises(InvalidRequest):
            await pool.diff(-1)
        present, founding = await pool.master_history()
        assert (present.until, founding.until) == (None, present.since)
        assert present.host == outlook.lost[1].uuid
        await asyncio.to_thread(foreseen_by_the_twin, ignite.endpoint, pool.revision)


async def test_a_misfit_is_refused_with_every_reason(cluster: Cluster) -> None:
    phantom = cluster.local("phantom")
    misfit = cluster.local("misfit", sim='product_version = "0.0.9"\n' + WEB1)
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        with pytest.raises(JoinRefused) as error:
            _ = await pool.add_host(misfit.endpoint)
        assert [f.code for f in error.value.findings] == [
            "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION",
            "JOINING_HOST_CANNOT_HAVE_VMS",
        ]
        assert len(await pool.hosts.list()) == 1


async def test_an_ejected_host_is_a_pool_of_its_own(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        await joined(pool, ignite.endpoint)
        task = await (await pool.eject_host("ignite"))
        assert task.status is TaskStatus.SUCCESS
        assert [h.name_label for h in await pool.hosts.list()] == ["phantom"]


async def test_every_change_is_told_once_and_in_order_to_all(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom", sim=WEB1), cluster.local("ignite")
    await cluster.start()
    async with (
        PoolClient.connect(phantom.endpoint) as pool,
        PoolClient.connect(ignite.endpoint) as before,
    ):
        assert before.pool_uuid != pool.pool_uuid
        await joined(pool, ignite.endpoint)
        start = (await pool.hosts.list()).freshness.revision
        async with PoolClient.connect(ignite.endpoint) as at_ignite:
            events = at_ignite.events(since=start, kinds=[Kind.VM])
            async with aclosing(events), at_ignite.mirror() as mirror:
                dones = await asyncio.gather(
                    *(pool.vms.set("web1", other_config={f"k{n}": "v"}) for n in range(300))
                )
                revisions = sorted(d.revision for d in dones)
                told = [(await anext(events)).revision for _ in range(300)]
                assert told == revisions
                await mirror.barrier()
                assert len(mirror.vms["web1"].other_config) == 300
                resident_on = mirror.vms["web1"].resident_on
                assert resident_on is not None
                assert resident_on.name_label == "phantom"


async def test_a_frozen_master_makes_each_write_once(cluster: Cluster) -> None:
    phantom, ignite = cluster.process("phantom", sim=WEB1), cluster.process("ignite")
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        await joined(pool, ignite.endpoint)
        phantom.signal(signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            writes = [
                group.create_task(pool.vms.set("web1", add_tags=[f"t{n}"], timeout_seconds=20))
                for n in range(20)
            ]
            await asyncio.sleep(0.3)
            phantom.signal(signal.SIGCONT)
        revisions = [task.result().revision for task in writes]
        assert len(set(revisions)) == 20
        assert len((await pool.vms.get("web1")).tags) == 20


async def test_a_restarted_master_loses_and_doubles_nothing(cluster: Cluster) -> None:
    phantom, ignite = cluster.process("phantom", sim=WEB1), cluster.process("ignite")
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        await joined(pool, ignite.endpoint)
    async with PoolClient.connect(
        phantom.endpoint, ignite.endpoint, timeout_seconds=20, master_patience_seconds=15
    ) as pool:
        start = (await pool.hosts.list()).freshness.revision
        seen: list[int] = []
        ended = asyncio.Event()

        async def follow() -> None:
            events = pool.events(since=start)
            async with aclosing(events):
                async for event in events:
                    seen.append(event.revision)
                    if ended.is_set() and event.revision >= pool.revision:
                        return

        async with pool.mirror() as mirror, asyncio.TaskGroup() as group:
            group.create_task(follow())
            writes = []
            for n in range(60):
                writes.append(group.create_task(pool.vms.set("web1", other_config={f"k{n}": "v"})))
                await asyncio.sleep(0.01)
                if n == 20:
                    await phantom.kill()
                    await phantom.start()
            revisions = [(await write).revision for write in writes]
            ended.set()
            await pool.vms.set("web1", other_config={"last": "v"})
            await mirror.barrier()
            entries = dict(mirror.vms["web1"].other_config)
        assert len(set(revisions)) == 60
        assert len(entries) == 61
        assert seen == list(range(start + 1, seen[-1] + 1))


async def test_without_its_master_a_member_answers_stale(cluster: Cluster) -> None:
    phantom, ignite = cluster.process("phantom", sim=WEB1), cluster.process("ignite")
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        await joined(pool, ignite.endpoint)
        await pool.vms.set("web1", add_tags=["x"])
    async with PoolClient.connect(
        ignite.endpoint, require_fresh=True, master_patience_seconds=0.2
    ) as strict:
        assert len(await strict.vms.list()) == 1
        await phantom.kill()
        with pytest.raises(StaleAnswer):
            await strict.vms.list()
        with pytest.raises(NoMaster):
            await strict.vms.set("web1", add_tags=["y"])
        async with PoolClient.connect(ignite.endpoint) as pool:
            vms = await pool.vms.list()
            assert vms.freshness.stale
            assert list(vms[0].tags) == ["x"]
            assert (await pool.status()).master is None
        await phantom.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert list((await strict.vms.list())[0].tags) == ["x"]
                    break
                except StaleAnswer:
                    await asyncio.sleep(0.05)


async def test_a_client_of_one_host_gets_over_its_restart(cluster: Cluster) -> None:
    phantom = cluster.process("phantom", sim=WEB1)
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint, timeout_seconds=20) as pool:
        for n in range(3):
            async with asyncio.TaskGroup() as group:
                await phantom.kill()
                reading = group.create_task(pool.vms.get("web1"))
                writing = group.create_task(pool.vms.set("web1", add_tags=[f"t{n}"]))
                await phantom.start()
                assert (await reading).name_label == "web1"
                assert f"t{n}" in (await writing).object.tags
