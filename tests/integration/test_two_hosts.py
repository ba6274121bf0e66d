"""A pool of two hosts with the store at the master, the other host's replica in step."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from integration.test_designate import master_of, reigns, writing
from poolclient import PoolClient
from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, Message, TaskStatus
from support.daemons import Cluster, ProcessHost


@asynccontextmanager
async def pair(cluster: Cluster) -> AsyncIterator[tuple[PoolClient, list[ProcessHost]]]:
    """Two hosts, the first of them master and the second in step; a client that knows both."""
    hosts = [cluster.process("phantom"), cluster.process("ignite")]
    await cluster.start()
    async with hosts[0].api() as api:
        await api.join(hosts[1].endpoint)
        await api.in_step()
    async with PoolClient.connect(*(host.endpoint for host in hosts)) as pool:
        yield pool, hosts


async def test_no_call_fails_while_the_mastership_goes_to_and_fro(cluster: Cluster) -> None:
    async with pair(cluster) as (pool, hosts), writing(list(hosts)) as refused:
        for name in ("ignite", "phantom") * 3:
            task = await (await pool.designate_master(name))
            assert task.status is TaskStatus.SUCCESS
            assert await master_of(pool) == name
    assert refused == []
    assert Accession.SUCCESSION not in await reigns(hosts[0])


async def refusal(awaitable: Awaitable[object]) -> Reason:
    with pytest.raises(PoolError) as refused:
        await awaitable
    return refused.value.reason


async def test_nothing_is_lost_with_the_master_right_after_an_acknowledged_write(
    cluster: Cluster,
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        async with phantom.api() as api:
            for number in range(20):
                await api.update_pool(add_tags=[f"tag-{number}"])
        await phantom.kill()
        async with ignite.api() as api:
            outlook = (await api.emergency_transition(confirmed=False)).outlook
            assert (outlook.in_step, outlook.may_lack) == ("ignite", False)
            assert [peer.answers for peer in outlook.peers] == [False]
            head = (await api.emergency_transition()).head
            assert head.incarnation.counter > 1
            state = await api.state()
            assert state.pool.tags == {f"tag-{number}" for number in range(20)}
            await api.update_pool(add_tags=["afterwards"])
            assert await refusal(api.emergency_transition()) is Reason.ALREADY_MASTER
        await phantom.start()
        async with phantom.api() as api:
            status = await api.in_step()
            assert [(h.name, h.role) for h in status.hosts] == [("ignite", 1), ("phantom", 2)]
        assert phantom.replica() == ignite.replica()


async def test_nothing_is_lost_with_the_old_master_right_after_a_designation(
    cluster: Cluster,
) -> None:
    async with pair(cluster) as (pool, (phantom, ignite)):
        async with phantom.api() as api:
            await api.update_pool(add_tags=["before"])
        await (await pool.designate_master("ignite"))
        await phantom.kill()
        async with ignite.api() as api:
            await api.update_pool(add_tags=["after"])
            assert (await api.state()).pool.tags == {"before", "after"}


async def test_writes_go_on_without_a_member_that_hangs(cluster: Cluster) -> None:
    async with pair(cluster) as (_, (phantom, ignite)), phantom.api() as api:
        ignite.signal(signal.SIGSTOP)
        await api.update_pool(add_tags=["alone"])
        state = await api.state()
        assert state.pool.in_step is None
        newest = max(state.all(Message), key=lambda m: m.timestamp)
        assert newest.name == "REPLICA_OUT_OF_STEP"
        codes = [warning.code for warning in (await api.status()).warnings]
        assert "REPLICA_OUT_OF_STEP" in codes
        assert "does not confirm commits" in phantom.log
        ignite.signal(signal.SIGCONT)
        await api.in_step()
        assert (await api.state()).pool.in_step is not None


async def test_a_master_that_was_out_of_step_is_not_replaced_without_consent(
    cluster: Cluster,
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        async with phantom.api() as api:
            ignite.signal(signal.SIGSTOP)
            await api.update_pool(add_tags=["alone"])
            ignite.signal(signal.SIGCONT)
            await api.in_step()
            await ignite.kill()
            await api.until(lambda state: state.pool.in_step is None)
            await api.update_pool(add_tags=["later"])
        # The other host was told that it is in step, and has not heard otherwise.
        await phantom.kill()
        await ignite.start()
        async with ignite.api() as api:
            await api.emergency_transition()
            assert (await api.state()).pool.tags == {"alone"}
        await phantom.start()
        async with phantom.api() as api:
            await api.in_step()
            assert (await api.state()).pool.tags == {"alone"}


async def test_a_master_that_comes_back_waits_for_the_host_that_was_in_step(
    cluster: Cluster,
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        # Both at once, before either can note that it lost the other.
        ignite.signal(signal.SIGSTOP)
        await phantom.kill()
        await ignite.kill()
        await phantom.start()
        await phantom.says("waiting for ignite")
        async with phantom.api() as api:
            assert await refusal(api.update_pool(add_tags=["alone"])) is Reason.NO_MASTER
            assert await refusal(api.emergency_transition()) is Reason.LOSS_NOT_ACCEPTED
            await ignite.start()
            await api.in_step()
            await api.update_pool(add_tags=["both"])


async def test_a_master_that_waits_can_be_told_to_go_on(cluster: Cluster) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        ignite.signal(signal.SIGSTOP)
        await phantom.kill()
        await ignite.kill()
        await phantom.start()
        await phantom.says("waiting for ignite")
        async with phantom.api() as api:
            await api.emergency_transition(accept_loss=True)
            await api.update_pool(add_tags=["alone"])
        await ignite.start()
        async with ignite.api() as api:
            await api.in_step()
            assert (await api.state()).pool.tags == {"alone"}


async def test_no_emergency_while_there_is_a_master(cluster: Cluster) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        async with phantom.api() as api:
            assert await refusal(api.emergency_transition()) is Reason.ALREADY_MASTER
        async with ignite.api() as api:
            assert await refusal(api.emergency_transition()) is Reason.MASTER_LIVES
