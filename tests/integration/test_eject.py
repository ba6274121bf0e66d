"""A host leaves: it is a pool of its own again, and takes along what is its own."""

import pytest

from poolcore.errors import Exit, PoolError, Reason
from poolcore.model import PBD, SR, VM, HostMetrics, TaskStatus
from poolcore.requests import request_id
from poolmember.state_dir import REPLICA_FILE, STORE_FILE
from support.daemons import SHARED_SRS, Cluster, LocalHost
from support.wholeness import identity_of, is_in

VM_AT_REST = """
[[vm]]
name = "web1"
disk = [{ size_mib = 10 }]
"""


async def a_pool(cluster: Cluster) -> tuple[LocalHost, LocalHost]:
    phantom, ignite = cluster.local("phantom", sim=SHARED_SRS), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        await api.quiet()
    return phantom, ignite


async def test_a_host_leaves_with_its_own_srs_and_what_was_said_of_them(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    uuid = identity_of(ignite).host
    async with phantom.api() as at_phantom, ignite.api() as at_ignite:
        pool = await at_phantom.state()
        own = next(pbd.sr for pbd in pool.all(PBD) if pbd.host == uuid)
        await at_phantom.tag_sr(own, "fast")
        task = await at_phantom.eject("ignite")
        assert (task.operation, task.progress) == ("host.eject", 1.0)
        assert not await is_in(ignite, phantom)
        assert len(await at_phantom.srs()) == 6
        alone = await at_ignite.state()
    assert [sr.tags for sr in alone.all(SR) if sr.uuid == own] == [frozenset({"fast"})]
    assert alone.pool.name_label == "ignite"
    assert identity_of(ignite).host == uuid, "the same host, in another pool"


async def test_what_a_membership_leaves_behind_is_kept_aside(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as api:
        await api.eject("ignite")
    assert not await is_in(ignite, phantom)
    kept = {path.name for path in ignite.state_dir.iterdir() if ".retired-" in path.name}
    assert kept == {f"{STORE_FILE}.retired-1", f"{REPLICA_FILE}.retired-1",
                    f"{REPLICA_FILE}.retired-2"}  # fmt: skip


async def test_an_ejected_host_can_come_back_again_and_again(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as api:
        for _ in range(3):
            await api.eject("ignite")
            await api.join(ignite.endpoint)
        assert len(await api.srs()) == 9
    assert await is_in(ignite, phantom)


async def test_a_host_can_be_ejected_by_asking_it_itself(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with ignite.api() as api:
        await api.eject_host("ignite")
    assert not await is_in(ignite, phantom)


async def test_the_same_request_again_finds_the_same_task(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as api:
        asked = request_id((await api.state()).revision, "ejectignite")
        first = await api.eject_host("ignite", asked=asked)
        second = await api.eject_host("ignite", asked=asked)
        done = await api.ended(first)
        assert (second.uuid, done.status) == (first.uuid, TaskStatus.SUCCESS)
        assert await api.eject_host("ignite", asked=asked) == done
    assert not await is_in(ignite, phantom)


async def refusal_of_ejecting(phantom: LocalHost, host: str) -> PoolError:
    async with phantom.api() as api:
        with pytest.raises(PoolError) as refused:
            await api.eject_host(host)
    assert refused.value.remedy
    return refused.value


async def test_the_master_does_not_leave_its_pool(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    error = await refusal_of_ejecting(phantom, "phantom")
    assert (error.reason, error.entry.exit) == (Reason.HOST_IS_MASTER, Exit.CONFLICT)
    assert await is_in(ignite, phantom)


async def test_a_host_that_nobody_knows_is_not_found(cluster: Cluster) -> None:
    phantom, _ = await a_pool(cluster)
    error = await refusal_of_ejecting(phantom, "specter")
    assert (error.reason, error.entry.exit) == (Reason.OBJECT_NOT_FOUND, Exit.NOT_FOUND)


async def test_a_host_that_is_away_cannot_be_told_and_stays(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    await ignite.stop()
    async with phantom.api() as api:
        await api.until(lambda state: not all(m.live for m in state.all(HostMetrics)))
    error = await refusal_of_ejecting(phantom, "ignite")
    assert (error.reason, error.entry.exit) == (Reason.HOST_OFFLINE, Exit.CONFLICT)
    await ignite.start()
    assert await is_in(ignite, phantom)


async def test_a_host_with_vms_stays_until_they_are_gone(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as api:
        ignite.describe(VM_AT_REST)
        await api.until(lambda state: len(list(state.all(VM))) == 1)
        error = await refusal_of_ejecting(phantom, "ignite")
        assert (error.reason, error.entry.exit) == (Reason.HOST_HAS_RESIDENT_VMS, Exit.CONFLICT)
        assert "web1" in error.message
        ignite.describe("")
        await api.until(lambda state: not list(state.all(VM)))
        await api.eject("ignite")
    assert not await is_in(ignite, phantom)
