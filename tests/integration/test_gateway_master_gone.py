"""What a member answers when its master does not: in time, marked as stale, never guessing."""

import asyncio
import signal
import time
from typing import Any

import grpc
import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Kind
from poolcore.requests import request_id
from poolcore.wire.codec import enum_to_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import (
    chain_pb2,
    event_service_pb2,
    host_service_pb2,
    patch_pb2,
    pool_service_pb2,
    storage_service_pb2,
)
from support.api import Api
from support.daemons import Cluster, LocalHost, ProcessHost
from support.proxy import Proxy
from support.wholeness import same_replicas


async def a_pool(cluster: Cluster) -> tuple[ProcessHost, LocalHost]:
    """A master that can be killed, and a member that is caught up."""
    phantom, ignite = cluster.process("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    await same_replicas(phantom, ignite)
    return phantom, ignite


async def reason_of(call: Any) -> Reason:
    with pytest.raises(PoolError) as failed:
        await call
    return failed.value.reason


async def freshness(api: Api) -> chain_pb2.Freshness:
    response = await api.call(api.storage.ListSrs, storage_service_pb2.ListSrsRequest())
    assert len(response.srs) == 6
    return response.freshness


@pytest.mark.parametrize("write", [False, True])
async def test_a_deadline_holds_at_a_frozen_master(write: bool, cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    phantom.signal(signal.SIGSTOP)
    async with ignite.api() as api:
        began = time.monotonic()
        update = pool_service_pb2.UpdatePoolRequest(
            patch=patch_pb2.MetadataPatch(name_description="never")
        )
        get = pool_service_pb2.GetPoolRequest()
        call = (
            api.call(api.pools.UpdatePool, update, timeout_seconds=0.05)
            if write
            else api.call(api.pools.GetPool, get, timeout_seconds=0.05)
        )
        assert await reason_of(call) is Reason.DEADLINE_PASSED
        assert time.monotonic() - began < 5.0


async def test_without_a_master_reads_are_stale_and_say_so(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with ignite.api() as api:
        before = await freshness(api)
        assert not before.stale
        await phantom.kill()
        stale = await freshness(api)
        assert stale.stale
        assert (stale.incarnation, stale.revision) == (before.incarnation, before.revision)
        assert 0.0 <= stale.age_seconds < 20.0
        later = await freshness(api)
        assert later.age_seconds > stale.age_seconds
        hosts = await api.call(api.hosts.ListHosts, host_service_pb2.ListHostsRequest())
        assert sorted(host.name_label for host in hosts.hosts) == ["ignite", "phantom"]
        status = await api.status()
        assert status.freshness.stale
        assert [warning.code for warning in status.warnings] == ["NO_MASTER"]


async def test_without_a_master_nothing_is_written_and_nobody_waits_long(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    await phantom.kill()
    before = ignite.replica()
    item = pool_service_pb2.UpdateItem(
        kind=enum_to_proto(Kind.POOL), patch=patch_pb2.MetadataPatch(name_label="another")
    )
    batch = pool_service_pb2.BatchUpdateRequest(items=[item])
    async with ignite.api() as api:
        began = time.monotonic()
        calls = (
            api.update_pool(name_label="another"),
            api.call(api.pools.BatchUpdate, batch),
            api.add_host("127.0.0.1:9"),
            api.eject_host("ignite"),
            api.check_host("127.0.0.1:9"),
            _first_event(api),
        )
        # Each waits for a moment: there may be another master by then.
        reasons = set(await asyncio.gather(*map(reason_of, calls)))
        assert reasons <= {Reason.NO_MASTER, Reason.NO_HOST_ANSWERS}
        assert time.monotonic() - began < 5.0
    assert ignite.replica() == before


async def _first_event(api: Api) -> None:
    try:
        async for _ in api.events.Watch(event_service_pb2.WatchRequest(), timeout=10.0):
            pass
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error


async def test_answers_are_fresh_again_when_the_master_is_back(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    await phantom.kill()
    async with ignite.api() as api:
        assert (await freshness(api)).stale
        await ignite.says("looking for its master")
        await phantom.start()
        await ignite.says("following")
        assert not (await freshness(api)).stale
        await api.update_pool(name_label="renamed")
    await same_replicas(phantom, ignite)


@pytest.mark.parametrize("done", [True, False])
async def test_the_outcome_of_a_write_is_unknown_when_its_connection_breaks(
    done: bool, cluster: Cluster
) -> None:
    proxied = cluster.loopback.endpoint()
    phantom = cluster.local("phantom", options=[f"--advertise={proxied}"])
    ignite = cluster.local("ignite")
    await cluster.start()
    async with (
        Proxy(proxied, phantom.endpoint) as proxy,
        phantom.api() as at_master,
        ignite.api() as at_member,
    ):
        await at_master.join(ignite.endpoint)
        state = await at_master.state()
        asked = request_id(state.revision, "nameitonce")
        proxy.hold(requests=not done, answers=done)
        async with asyncio.TaskGroup() as tasks:
            write = at_member.update_pool(name_description="named", asked=asked)
            writing = tasks.create_task(reason_of(write))
            if done:
                await at_master.until(lambda s: s.pool.name_description == "named")
            else:
                await proxy.holds(b"nameitonce")
            proxy.cut()
            assert await writing is Reason.OUTCOME_UNKNOWN

        await ignite.says("looking for its master")
        proxy.heal()
        await ignite.says("following")
        between = await at_master.update_pool(name_description="named otherwise")
        again = await at_member.update_pool(name_description="named", asked=asked)
        assert (again.revision < between.revision) is done, "it is what it was, or made now"
        assert again.pool.name_description == "named"
        third = await at_master.update_pool(name_description="named", asked=asked)
        assert third == again, "never made twice"


async def test_questions_of_foresight_end_by_their_deadline_at_a_frozen_master(
    cluster: Cluster,
) -> None:
    phantom, ignite = await a_pool(cluster)
    phantom.signal(signal.SIGSTOP)
    async with ignite.api() as api:
        loss = pool_service_pb2.CheckLossRequest(hosts=["phantom"])
        answer = api.call(api.pools.CheckLoss, loss, timeout_seconds=0.3)
        assert await reason_of(answer) is Reason.DEADLINE_PASSED
        difference = pool_service_pb2.GetDifferenceRequest(since_revision=1)
        stream = api.pools.GetDifference(difference, timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
