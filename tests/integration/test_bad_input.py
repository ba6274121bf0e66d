"""What people and programs get wrong: the right reason and remedy in time, and nothing harmed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from poolcore.errors import Exit, PoolError, Reason
from poolmanager.v1 import (
    host_service_pb2,
    network_service_pb2,
    patch_pb2,
    pool_service_pb2,
    storage_service_pb2,
)
from support import strangers
from support.api import Api
from support.daemons import Cluster, Host
from support.wholeness import same_replicas

ANSWER_SECONDS = 8.0
"""Resolving, connecting and asking have deadlines of their own; the caller's is the last resort."""
MIB = 1024**2
NOT_A_NAME = ["two words", "x" * 300, "a." * 150, "line\nbreak", "\x1b[31mred", "", " ", ":7443",
              "host:", "host:http", "host:0", "host:99999", "[::1", "-dash-"]  # fmt: skip


@asynccontextmanager
async def unharmed(host: Host) -> AsyncIterator[Api]:
    """The API of a host whose pool is the same afterwards."""
    async with host.api() as api:
        await api.quiet()
        before = await api.state()
        yield api
        assert await api.state() == before
        await same_replicas(host)


async def refusal_of_joining(api: Api, address: str) -> PoolError:
    """Why a host at an address cannot be added; a dry run says the same, and both in time."""
    began = time.monotonic()
    dry, error = await asyncio.gather(
        api.check_host(address), api.add_host(address), return_exceptions=True
    )
    assert time.monotonic() - began < ANSWER_SECONDS
    assert isinstance(error, PoolError)
    assert isinstance(dry, PoolError)
    assert dry.reason is error.reason
    assert error.message
    assert error.remedy
    return error


@pytest.fixture
async def phantom(cluster: Cluster) -> Host:
    host = cluster.local("phantom")
    await host.start()
    return host


@pytest.mark.parametrize("address", NOT_A_NAME)
async def test_an_address_that_is_none(address: str, phantom: Host) -> None:
    async with unharmed(phantom) as api:
        error = await refusal_of_joining(api, address)
    assert (error.reason, error.entry.exit) == (Reason.INVALID_VALUE, Exit.USAGE)
    assert error.params["field"] == "address"
    assert error.message.isprintable()
    assert len(error.message) < 200


async def test_a_name_that_does_not_resolve(phantom: Host) -> None:
    async with unharmed(phantom) as api:
        error = await refusal_of_joining(api, "no-such-host.invalid")
    assert (error.reason, error.entry.exit) == (Reason.HOST_NAME_UNRESOLVABLE, Exit.FAILED)
    assert "no-such-host.invalid" in error.message
    assert "phantom" in error.message


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (strangers.nobody, Reason.HOST_UNREACHABLE),
        (strangers.web_server, Reason.NOT_A_POOL_HOST),
        (strangers.hanging_up, Reason.NOT_A_POOL_HOST),
        (strangers.silent, Reason.NOT_A_POOL_HOST),
        (strangers.another_grpc_service, Reason.NOT_A_POOL_HOST),
    ],
)
async def test_an_address_where_no_host_of_ours_listens(
    stranger: strangers.Stranger, reason: Reason, phantom: Host, cluster: Cluster
) -> None:
    endpoint = cluster.loopback.endpoint()
    async with unharmed(phantom) as api, stranger(endpoint):
        error = await refusal_of_joining(api, endpoint)
    assert (error.reason, error.entry.exit) == (reason, Exit.FAILED)
    assert endpoint in error.message


async def test_a_caller_in_a_hurry_is_answered_in_time(phantom: Host, cluster: Cluster) -> None:
    endpoint = cluster.loopback.endpoint()
    async with unharmed(phantom) as api, strangers.silent(endpoint):
        began = time.monotonic()
        request = pool_service_pb2.AddHostRequest(address=endpoint)
        with pytest.raises(PoolError) as late:
            await api.call(api.pools.AddHost, request, timeout_seconds=0.3)
        assert time.monotonic() - began < 2.0
    assert (late.value.reason, late.value.entry.exit) == (Reason.DEADLINE_PASSED, Exit.TIMED_OUT)


async def finding_in_the_way(api: Api, address: str) -> str:
    with pytest.raises(PoolError) as refused:
        await api.add_host(address)
    assert (refused.value.reason, refused.value.entry.exit) == (Reason.JOIN_REFUSED, Exit.CONFLICT)
    (finding,) = refused.value.findings
    assert finding.remedy
    return finding.code


async def test_a_pool_does_not_take_in_its_own_hosts(phantom: Host, cluster: Cluster) -> None:
    ignite = cluster.local("ignite")
    await ignite.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    async with unharmed(phantom) as api:
        assert await finding_in_the_way(api, phantom.endpoint) == "HOST_ALREADY_IN_POOL"
        assert await finding_in_the_way(api, ignite.endpoint) == "HOST_ALREADY_IN_POOL"


async def test_a_pool_does_not_take_hosts_from_another(phantom: Host, cluster: Cluster) -> None:
    master, member = cluster.local("ignite"), cluster.local("specter")
    await cluster.start(master, member)
    async with master.api() as api:
        await api.join(member.endpoint)
    async with unharmed(master), unharmed(phantom) as api:
        for host in (master, member):
            code = await finding_in_the_way(api, host.endpoint)
            assert code == "JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS"


@pytest.mark.parametrize(
    "name", ["", "   ", "x" * 256, "line\nbreak", "\x1b[31mred", "nul\0", "\x7f", "\u0085"]
)
async def test_a_name_that_objects_may_not_have(name: str, phantom: Host) -> None:
    patch = patch_pb2.MetadataPatch(name_label=name)
    async with unharmed(phantom) as api:
        pool, host, sr, network = (
            pool_service_pb2.UpdatePoolRequest(patch=patch),
            host_service_pb2.UpdateHostRequest(host="phantom", patch=patch),
            storage_service_pb2.UpdateSrRequest(sr="Local storage", patch=patch),
            network_service_pb2.UpdateNetworkRequest(network="Pool-wide network", patch=patch),
        )
        for answer in (
            api.call(api.pools.UpdatePool, pool),
            api.call(api.hosts.UpdateHost, host),
            api.call(api.storage.UpdateSr, sr),
            api.call(api.networks.UpdateNetwork, network),
        ):
            with pytest.raises(PoolError) as refused:
                await answer
            error = refused.value
            assert (error.reason, error.entry.exit) == (Reason.INVALID_VALUE, Exit.USAGE)
            assert error.params["field"] == "name_label"
            assert error.message.isprintable()


@pytest.mark.parametrize("name", ["with spaces", "x" * 255, "Prüfstand ☃"])
async def test_a_name_that_objects_may_have(name: str, phantom: Host) -> None:
    async with phantom.api() as api:
        assert (await api.update_pool(name_label=name)).pool.name_label == name
        assert (await api.state()).pool.name_label == name
    await same_replicas(phantom)


async def test_requests_of_50_megabytes_are_refused_and_leave_nothing(cluster: Cluster) -> None:
    phantom, ignite = cluster.process("phantom"), cluster.process("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    for host in (phantom, ignite):
        async with unharmed(phantom), host.api() as api:
            before = host.resident_bytes
            for _ in range(3):
                with pytest.raises(PoolError) as refused:
                    await api.update_pool(name_description="x" * (50 * MIB))
                assert refused.value.reason is Reason.REQUEST_TOO_LARGE
                assert refused.value.entry.exit is Exit.USAGE
            # gRPC may have one of them in its buffers; they must not pile up.
            assert host.resident_bytes - before < 80 * MIB


async def test_a_batch_of_too_many_updates_is_refused_whole(phantom: Host) -> None:
    async with unharmed(phantom) as api:
        request = pool_service_pb2.BatchUpdateRequest(items=[pool_service_pb2.UpdateItem()] * 1_001)
        with pytest.raises(PoolError) as refused:
            await api.call(api.pools.BatchUpdate, request)
    assert refused.value.reason is Reason.INVALID_VALUE


async def test_bytes_that_are_no_message_are_refused_as_such(phantom: Host) -> None:
    async with unharmed(phantom) as api:
        method: Any = api.channel.unary_unary("/poolmanager.v1.PoolService/UpdatePool")
        with pytest.raises(PoolError) as refused:
            await api.call(method, b"\xff\xff\xff no message")
    assert refused.value.reason is Reason.INVALID_VALUE
