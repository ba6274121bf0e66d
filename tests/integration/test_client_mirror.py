"""A live copy that never shows what never was."""

import asyncio
import dataclasses

import pytest

from poolclient import Ambiguous, NotFound, PoolClient, StaleAnswer, TimedOut
from poolcore.model import Incarnation, Kind
from support.fake_server import Fault
from support.fakes import fake_hosts
from support.small_pool import LOCAL_1, NFS, WEB1, small_pool


async def test_views_are_linked_both_ways() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        web1 = mirror.vms["web1"]
        assert web1.name_label == "web1"
        assert web1.resident_on is not None
        assert web1.resident_on.name_label == "phantom"
        (vbd,) = web1.vbds
        assert vbd.vdi is not None
        assert vbd.vdi.sr == mirror.srs[NFS]
        phantom = mirror.hosts["phantom"]
        assert phantom.resident_vms == [web1]
        assert phantom.metrics is not None
        assert phantom.metrics.live
        assert [sr.name_label for sr in phantom.srs] == ["Local storage", "nfs-iso"]
        assert [h.name_label for h in mirror.srs["nfs-iso"].hosts] == ["phantom", "ignite"]
        assert [p.host for p in mirror.networks["Pool-wide network"].pifs] == list(mirror.hosts)
        assert mirror.pool.name_label == "phantom"
        assert mirror.pool.default_sr is None
        assert repr(web1) == "<VmView web1>"


async def test_tables_take_uuids_and_names() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        assert mirror.vms[WEB1] == mirror.vms["web1"]
        assert len(mirror.vms) == 2
        assert "web1" in mirror.vms
        assert mirror.vms.get("nonesuch") is None
        with pytest.raises(NotFound):
            mirror.vms["nonesuch"]
        with pytest.raises(Ambiguous):
            mirror.srs["Local storage"]
        with pytest.raises(AttributeError):
            mirror.vms["web1"].nonesuch  # noqa: B018 - looking is what fails


async def test_the_barrier_waits_for_what_was_committed_before() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        for n in range(50):
            await pool.vms.set(WEB1, name_label=f"n{n}")
            await mirror.barrier()
            assert mirror.vms[WEB1].name_label == f"n{n}"
        assert mirror.state.tables == host.pool.state.tables


async def test_what_was_given_out_does_not_change() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        before = mirror.vms[WEB1]
        host.pool.remove(host.pool.find(Kind.HOST, "phantom"))
        await mirror.barrier()
        assert mirror.vms[WEB1].resident_on is None
        assert before.resident_on is not None


async def test_the_copy_goes_on_after_a_break_without_a_snapshot() -> None:
    async with (
        fake_hosts(2) as hosts,
        PoolClient.connect(*(h.address for h in hosts)) as pool,
        pool.mirror() as mirror,
    ):
        for n in range(10):
            host = hosts[n % 2]
            host.break_streams()
            host.pool.put(host.pool.find(Kind.SR, LOCAL_1), name_label=f"n{n}")
        await mirror.barrier()
        assert mirror.state.tables == hosts[0].pool.state.tables


async def test_the_copy_goes_on_when_its_host_starts_again() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        host.fault("GetStatus", Fault.NO_MASTER, Fault.NO_MASTER)
        await host.stop()
        await host.start()
        host.pool.put(host.pool.find(Kind.SR, LOCAL_1), name_label="afterwards")
        await host.until_called("Watch", 2)
        await mirror.barrier()
        assert mirror.state.tables == host.pool.state.tables


async def test_beyond_the_history_the_copy_starts_anew() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        await host.stop()
        for n in range(5):
            host.pool.put(host.pool.find(Kind.SR, LOCAL_1), name_label=f"n{n}")
        host.pool.forget_history()
        await host.start()
        await mirror.barrier()
        assert mirror.revision == 15
        assert mirror.srs[LOCAL_1].name_label == "n4"


async def test_the_copy_follows_into_a_new_incarnation() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        forked = Incarnation(2, "70000000-0000-4000-8000-000000000002", forked_at=8)
        host.pool.state = dataclasses.replace(small_pool(revision=9), incarnation=forked)
        host.pool.forget_history()
        host.break_streams()
        await mirror.barrier()
        assert (mirror.state.incarnation, mirror.revision) == (forked, 9)


async def test_without_a_master_there_is_no_barrier() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        host.stale = True
        with pytest.raises(StaleAnswer):
            await mirror.barrier()


async def test_waiting_for_a_condition() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        with pytest.raises(TimedOut):
            await mirror.wait_for(lambda m: m.revision > 10, timeout_seconds=0.05)
        async with asyncio.TaskGroup() as group:
            renamed = group.create_task(
                mirror.wait_for(lambda m: m.vms[WEB1].name_label == "new", timeout_seconds=5)
            )
            host.pool.put(host.pool.find(Kind.VM, WEB1), name_label="new")
            await renamed


async def test_changes_are_told_as_states() -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address) as pool,
        pool.mirror() as mirror,
    ):
        revisions = []
        host.pool.put(host.pool.find(Kind.VM, WEB1), name_label="new")
        async for state in mirror.changes():
            revisions.append(state.revision)
            if state.revision == 13:
                break
            host.pool.put(host.pool.find(Kind.VM, WEB1), name_label=f"new{state.revision}")
        assert revisions == [11, 12, 13]


async def test_a_mirror_that_was_not_entered_says_so() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        with pytest.raises(RuntimeError, match="async with"):
            _ = pool.mirror().revision
