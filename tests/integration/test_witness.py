"""Witnesses: daemons that vote and keep a replica, bring nothing in and never lead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from poolclient import Conflict, NoMaster, PoolClient, Role
from poolcore.errors import Exit, PoolError, Reason
from poolcore.model import PIF, SR, VM, Host, Network
from poolmember.state_dir import read_identity
from support.daemons import SHARED_SRS, WAIT_SECONDS, Cluster, LocalHost, ProcessHost
from support.wholeness import same_replicas

WITNESS = ("--witness",)
WITH_VMS = (
    SHARED_SRS + '[[network]]\nname = "storage-net"\nbridge = "xapi1"\n[[vm]]\nname = "web1"\n'
)


@asynccontextmanager
async def two_and_a_witness(
    cluster: Cluster, folder: Path
) -> AsyncIterator[tuple[PoolClient, ProcessHost, ProcessHost, ProcessHost]]:
    """Two hosts and a witness on a shared store, phantom the master, and a client of all three."""
    phantom = cluster.process("phantom", options=[f"--store=sqlite://{folder / 'pool.db'}"])
    ignite = cluster.process("ignite")
    specter = cluster.process("specter", sim=WITH_VMS, options=WITNESS)
    hosts = (phantom, ignite, specter)
    await cluster.start()
    async with phantom.api() as api:
        for joining in hosts[1:]:
            await api.join(joining.endpoint)
        await api.in_step()
    await same_replicas(*hosts)
    async with PoolClient.connect(*(host.endpoint for host in hosts)) as pool:
        yield pool, *hosts


async def master_of(pool: PoolClient) -> str:
    """The name of the master, as soon as there is one."""
    async with asyncio.timeout(WAIT_SECONDS):
        # Whichever host answers, nobody tells when there is one.
        while (master := (await pool.status()).master) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return master.name


async def test_a_witness_joins_with_what_no_host_could_bring_and_brings_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with two_and_a_witness(cluster, tmp_path) as (pool, _, _, specter):
        status = await pool.status()
        roles = {host.name: host.role for host in status.hosts}
        assert roles == {"phantom": Role.MASTER, "ignite": Role.MEMBER, "specter": Role.WITNESS}
        assert all(host.in_step for host in status.hosts)
        quorum = status.quorum
        assert (quorum.voters, quorum.needed, quorum.survives) == (3, 2, 1)
        async with specter.api() as api:
            state = await api.state()
        assert state.host((await pool.hosts.get("specter")).uuid).witness
        assert [list(state.all(kind)) for kind in (VM,)] == [[]]
        assert len(list(state.all(SR))) == 6
        assert {n.default for n in state.all(Network)} == {True}
        assert {pif.host for pif in state.all(PIF)} == {
            host.uuid for host in state.all(Host) if not host.witness
        }
        outlook, _ = await pool.if_lost("phantom", "ignite")
        assert (outlook.next_master, outlook.writes) == (None, False)


async def test_a_dead_master_is_replaced_by_the_other_host_and_never_by_the_witness(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with two_and_a_witness(cluster, tmp_path) as (pool, phantom, ignite, specter):
        await phantom.kill()
        await ignite.says("master of pool")
        assert await master_of(pool) == "ignite"
        await pool.set(add_tags=["with-the-witness"])
        head = (await pool.status()).head
        assert head is not None
        await same_replicas(ignite, specter)

        await ignite.kill()
        # Longer than the `alive` key, after which a lone host takes over: but no witness.
        await asyncio.sleep(6.0)
        async with PoolClient.connect(specter.endpoint) as alone:
            found = await alone.status()
            assert found.master is None
            assert found.head is not None
            assert (found.head.term, found.freshness.stale) == (head.term, True)
            assert "a witness" in next(w.message for w in found.warnings if w.code == "NO_MASTER")
            with pytest.raises(NoMaster, match="it is a witness and does not become master itself"):
                await alone.set(add_tags=["nobody-leads"], timeout_seconds=5)
            assert "with-the-witness" in (await alone.pool()).tags
        async with specter.api() as api:
            with pytest.raises(PoolError) as refused:
                await api.emergency_transition(confirmed=False)
            assert refused.value.reason is Reason.HOST_IS_WITNESS
        # The host in the register leads again.
        await ignite.start()
        assert await master_of(pool) == "ignite"


async def test_nobody_makes_a_witness_the_master(cluster: Cluster, tmp_path: Path) -> None:
    async with two_and_a_witness(cluster, tmp_path) as (pool, phantom, ignite, specter):
        with pytest.raises(Conflict, match="specter is a witness") as designated:
            _ = await pool.designate_master("specter")
        assert designated.value.reason == Reason.HOST_IS_WITNESS
        with pytest.raises(Conflict, match="stays 0") as prioritized:
            await pool.hosts.set("specter", failover_priority=100)
        assert prioritized.value.reason == Reason.HOST_IS_WITNESS
        # Neither does a master that ends.
        await ignite.stop()
        await phantom.stop()
        assert "specter is master of pool specter" in specter.log
        assert "specter is master of pool phantom" not in specter.log


async def test_a_witness_waits_alone_and_takes_nobody_in(cluster: Cluster) -> None:
    specter = cluster.local("specter", options=WITNESS)
    ignite = cluster.local("ignite")
    await cluster.start()
    async with specter.api() as api:
        status = await api.status()
        assert [w.code for w in status.warnings] == ["WITNESS_ALONE"]
        for call in (api.check_host(ignite.endpoint), api.add_host(ignite.endpoint)):
            with pytest.raises(PoolError, match="waits to be taken in") as refused:
                await call
            assert refused.value.reason is Reason.HOST_IS_WITNESS
    # The other way round it is taken in, and comes back out as what it was.
    async with ignite.api() as api:
        await api.join(specter.endpoint)
        await same_replicas(ignite, specter)
        await api.in_step()
        # The witness has the second copy of what is acknowledged, and cannot go on from it.
        assert [w.code for w in (await api.status()).warnings] == ["NO_SPARE"]
        await api.eject("specter")
    await specter.says("master of pool specter")
    async with specter.api() as api:
        assert [w.code for w in (await api.status()).warnings] == ["WITNESS_ALONE"]


async def started_otherwise(host: LocalHost, *options: str) -> PoolError:
    """What a daemon ends with that is started as another kind of host."""
    await host.stop()
    before, host.options = host.options, options
    with pytest.raises(PoolError) as refused:
        await host.start()
    with pytest.raises(PoolError):
        await host.stop()
    host.options = before
    return refused.value


async def test_a_witness_is_not_started_as_a_host_nor_a_host_as_a_witness(cluster: Cluster) -> None:
    phantom = cluster.local("phantom")
    specter = cluster.local("specter", options=WITNESS)
    await cluster.start()
    async with phantom.api() as api:
        await api.join(specter.endpoint)
        await same_replicas(phantom, specter)
        for host, options in ((specter, ()), (phantom, WITNESS)):
            before = read_identity(host.state_dir)
            error = await started_otherwise(host, *options)
            assert (error.reason, error.entry.exit) == (Reason.WITNESS_CHANGED, Exit.USAGE)
            assert read_identity(host.state_dir) == before
            await host.start()
        await same_replicas(phantom, specter)


async def test_a_witness_needs_no_hypervisor(cluster: Cluster) -> None:
    phantom = cluster.local("phantom")
    specter = cluster.local("specter", options=(*WITNESS, "--driver=none"))
    await cluster.start()
    async with phantom.api() as api:
        check = await api.check_host(specter.endpoint)
        # The machine that runs the tests may have its address by DHCP, a full disk, or none at all.
        codes = {finding.code for finding in check.findings}
        assert codes <= {
            "HOST_HAS_NO_MANAGEMENT_IP",
            "MANAGEMENT_ADDRESS_BY_DHCP",
            "HOST_DISK_SPACE",
            "SLOW_FSYNC",
        }
        if check.may_join:
            await api.join(specter.endpoint)
            await same_replicas(phantom, specter)
            host = next(h for h in (await api.state()).all(Host) if h.witness)
            assert host.hypervisor.kind == "none"
