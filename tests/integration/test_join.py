"""A host joins a pool, or is told everything that stands in the way."""

import asyncio
import subprocess

import pytest

from poolcore.errors import Exit, PoolError, Reason
from poolcore.model import TaskStatus
from poolcore.requests import request_id
from support.daemons import POOLMEMBER, SHARED_SRS, Cluster, Host
from support.wholeness import is_in, same_replicas

MISFIT = """
product_version = "0.0.9"
clock_skew_seconds = 7.5
[[vm]]
name = "web1"
power_state = "halted"
[[network]]
name = "storage-net"
bridge = "xapi1"
[[sr]]
name = "nfs-iso"
type = "nfs"
shared = true
"""
FIVE_FINDINGS = {
    "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION",
    "JOINING_HOST_CANNOT_HAVE_VMS",
    "POOL_JOINING_HOST_HAS_NETWORKS",
    "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS",
    "CLOCK_SKEW",
}
FORCEABLE = """
clock_skew_seconds = 7.5
[cpu]
vendor = "GenuineIntel"
[management]
mtu = 9000
"""


async def at_rest(*hosts: Host) -> list[str]:
    """The canonical dumps of the hosts' replicas, when all that hosts do by themselves is done."""
    for host in hosts:
        async with host.api() as api:
            await api.quiet()
        await same_replicas(host)
    return [host.replica() for host in hosts]


async def inspected(*hosts: Host) -> list[str]:
    """The same as `poolmember inspect --dump` prints it."""

    def inspect(host: Host) -> str:
        command = [POOLMEMBER, "inspect", "--dump", "--state-dir", str(host.state_dir)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return await asyncio.gather(*(asyncio.to_thread(inspect, host) for host in hosts))


async def two_hosts(cluster: Cluster, sim: str = "") -> tuple[Host, Host]:
    phantom, ignite = cluster.local("phantom", sim=SHARED_SRS), cluster.local("ignite", sim=sim)
    await cluster.start()
    return phantom, ignite


async def test_six_srs_and_three_srs_are_nine_at_both_hosts(cluster: Cluster) -> None:
    phantom, ignite = await two_hosts(cluster)
    async with phantom.api() as at_phantom, ignite.api() as at_ignite:
        assert (len(await at_phantom.srs()), len(await at_ignite.srs())) == (6, 3)
        await at_phantom.join(ignite.endpoint)
        assert len(await at_phantom.srs()) == 9
        assert await at_ignite.srs() == await at_phantom.srs()
    assert await is_in(ignite, phantom)


async def test_everything_in_the_way_is_said_at_once_and_nothing_is_changed(
    cluster: Cluster,
) -> None:
    phantom, misfit = await two_hosts(cluster, MISFIT)
    before = await at_rest(phantom, misfit)
    async with phantom.api() as api:
        with pytest.raises(PoolError) as refused:
            await api.add_host(misfit.endpoint)
    error = refused.value
    assert (error.reason, error.entry.exit) == (Reason.JOIN_REFUSED, Exit.CONFLICT)
    assert error.params["count"] == "5"
    assert {f.code for f in error.findings} == FIVE_FINDINGS
    assert len(error.findings) == 5
    for finding in error.findings:
        assert finding.remedy
        assert finding.explanation
        assert finding.expected != finding.actual
    assert await at_rest(phantom, misfit) == before
    assert await inspected(phantom, misfit) == before


@pytest.mark.parametrize("sim", ["", MISFIT, FORCEABLE])
async def test_a_dry_run_changes_nothing(sim: str, cluster: Cluster) -> None:
    phantom, ignite = await two_hosts(cluster, sim)
    before = await at_rest(phantom, ignite)
    async with phantom.api() as api:
        for force in (False, True):
            checked = await api.check_host(ignite.endpoint, force=force)
            assert checked.host_name == "ignite"
            assert checked.may_join is (sim == "" or (sim == FORCEABLE and force))
            assert bool(checked.findings) is (sim != "")
    assert await at_rest(phantom, ignite) == before


async def test_force_does_not_override_what_may_not_be_overridden(cluster: Cluster) -> None:
    phantom, misfit = await two_hosts(cluster, MISFIT)
    async with phantom.api() as api:
        with pytest.raises(PoolError) as refused:
            await api.add_host(misfit.endpoint, force=True)
    overridden = {f.code for f in refused.value.findings if f.overridden}
    assert overridden == {"CLOCK_SKEW"}
    assert {f.code for f in refused.value.findings} == FIVE_FINDINGS
    assert refused.value.params["count"] == "4"
    assert not await is_in(misfit, phantom, srs=4)


async def test_force_says_what_it_overrode(cluster: Cluster) -> None:
    phantom, ignite = await two_hosts(cluster, FORCEABLE)
    expected = {"CLOCK_SKEW", "HOSTS_NOT_HOMOGENEOUS", "MTU_MISMATCH"}
    async with phantom.api() as api:
        with pytest.raises(PoolError) as refused:
            await api.add_host(ignite.endpoint)
        assert {f.code for f in refused.value.findings} == expected
        task = await api.join(ignite.endpoint, force=True)
    assert {f.code for f in task.findings if f.overridden} == expected
    assert await is_in(ignite, phantom)


async def test_after_the_remedies_the_same_host_joins(cluster: Cluster) -> None:
    phantom, misfit = await two_hosts(cluster, MISFIT)
    async with phantom.api() as api:
        with pytest.raises(PoolError):
            await api.add_host(misfit.endpoint)
        misfit.describe("")
        await api.join(misfit.endpoint)
    assert await is_in(misfit, phantom)


async def test_the_answer_names_its_task_and_what_was_found(cluster: Cluster) -> None:
    """Asked again with the same request id, the same task is found, however often."""
    phantom, ignite = await two_hosts(cluster)
    async with phantom.api() as api:
        asked = request_id((await api.state()).revision, "addignite")
        first = await api.add_host(ignite.endpoint, asked=asked)
        second = await api.add_host(ignite.endpoint, asked=asked)
        done = await api.ended(first)
        third = await api.add_host(ignite.endpoint, asked=asked)
    assert {first.uuid, second.uuid, third.uuid} == {first.uuid}
    assert third == done
    assert (done.status, done.progress, done.operation) == (
        TaskStatus.SUCCESS,
        1.0,
        "host.join",
    )
    assert await is_in(ignite, phantom)


async def test_a_host_with_its_own_names_keeps_them(cluster: Cluster) -> None:
    phantom, ignite = await two_hosts(cluster)
    async with ignite.api() as api:
        await api.quiet()
        await api.tag_sr("Local storage", "fast")
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        assert [sr.name_label for sr in await api.srs() if "fast" in sr.tags] == ["Local storage"]
