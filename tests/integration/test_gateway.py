"""Every call works at every host: a member's answers are the master's, errors included."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc
import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Kind, Pool, PoolId
from poolcore.requests import request_id
from poolcore.wire.codec import enum_to_proto, object_to_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import (
    event_service_pb2,
    host_service_pb2,
    lock_service_pb2,
    network_service_pb2,
    patch_pb2,
    pool_service_pb2,
    storage_service_pb2,
    task_service_pb2,
    vm_service_pb2,
)
from poolmaster.service.api import METHODS
from poolmaster.service.reads import NOUNS
from support.api import Api
from support.daemons import SHARED_SRS, Cluster, Host, LocalHost
from support.waiting_agent import WaitingAgent
from support.wholeness import same_replicas

ONE_OF_EACH = (
    SHARED_SRS
    + """
[[network]]
name = "storage-net"
bridge = "xapi1"
[[nic]]
device = "eth1"
[[nic]]
device = "eth2"
[[bond]]
device = "bond0"
interfaces = ["eth1", "eth2"]
[[vlan]]
on = "bond0"
tag = 7
network = "storage-net"
[[tunnel]]
device = "vxlan0"
[[vm]]
name = "web1"
power_state = "running"
disk = [{ sr = "nfs-disks", size_mib = 10 }]
nic = [{ network = "storage-net" }]
"""
)
TAGGED = patch_pb2.MetadataPatch(add_tags=["seen"], set_other_config={"a": "b"})
RENAMED = object_to_proto(
    Pool(uuid=PoolId("another"), name_label="production", tags=frozenset({"seen"}))
)


async def a_pool(cluster: Cluster) -> tuple[LocalHost, LocalHost]:
    """A master with one object of each kind, and a member."""
    phantom, ignite = cluster.local("phantom", sim=ONE_OF_EACH), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        await api.quiet()
    await same_replicas(phantom, ignite)
    return phantom, ignite


def read_requests(state: Any) -> dict[str, Any]:
    """A request for each unary method that reads, by the method's path."""
    found: dict[str, Any] = {
        "PoolService/GetPool": pool_service_pb2.GetPoolRequest(),
        "PoolService/GetStatus": pool_service_pb2.GetStatusRequest(),
        "PoolService/CheckHost": pool_service_pb2.CheckHostRequest(address="phantom.invalid"),
        "PoolService/CheckLoss": pool_service_pb2.CheckLossRequest(hosts=["ignite"]),
        "PoolService/CheckRestore": pool_service_pb2.CheckRestoreRequest(objects=[RENAMED]),
        "PoolService/ListRecoveries": pool_service_pb2.ListRecoveriesRequest(),
        "PoolService/GetRecovery": pool_service_pb2.GetRecoveryRequest(host="ignite", name="none"),
        "HostService/CheckForgetHost": host_service_pb2.CheckForgetHostRequest(host="ignite"),
        "PoolService/GetJoin": pool_service_pb2.GetJoinRequest(task="no task", host="no host"),
        "LockService/RenewLock": lock_service_pb2.RenewLockRequest(lock="no lock"),
    }
    for service, nouns in NOUNS.items():
        for noun in nouns:
            some = min((o.uuid for o in state.all(noun.cls)), default="none")
            get = getattr(noun.messages, f"Get{noun.one}Request")
            many = getattr(noun.messages, f"List{noun.many}Request")
            found[f"{service}/Get{noun.one}"] = get(**{noun.field: some})
            found[f"{service}/List{noun.many}"] = many(page_size=2)
    return {f"/poolmanager.v1.{path}": request for path, request in found.items()}


def write_requests(revision: int) -> dict[str, Any]:
    """A request for each method that writes, each with an id of its own."""
    ids = (request_id(revision, f"{number:08}") for number in range(100))
    item = pool_service_pb2.UpdateItem(
        request_id=next(ids), kind=enum_to_proto(Kind.VM), object="web1", patch=TAGGED
    )
    found: dict[str, Any] = {
        "PoolService/UpdatePool": pool_service_pb2.UpdatePoolRequest(patch=TAGGED),
        "HostService/UpdateHost": host_service_pb2.UpdateHostRequest(host="ign", patch=TAGGED),
        "HostService/SetMaintenance": host_service_pb2.SetMaintenanceRequest(
            host="ignite", maintenance=True
        ),
        "HostService/DeclareHostDead": host_service_pb2.DeclareHostDeadRequest(host="ignite"),
        "HostService/ForgetHost": host_service_pb2.ForgetHostRequest(host="phantom", vouched=True),
        "StorageService/UpdateSr": storage_service_pb2.UpdateSrRequest(sr="nfs-i", patch=TAGGED),
        "StorageService/UpdateVdi": storage_service_pb2.UpdateVdiRequest(vdi="web", patch=TAGGED),
        "NetworkService/UpdateNetwork": network_service_pb2.UpdateNetworkRequest(
            network="storage-net", patch=TAGGED
        ),
        "VMService/UpdateVm": vm_service_pb2.UpdateVmRequest(vm="web1", patch=TAGGED),
        "PoolService/AddHost": pool_service_pb2.AddHostRequest(address="phantom.invalid"),
        "PoolService/EjectHost": pool_service_pb2.EjectHostRequest(host="phantom"),
        "PoolService/RestoreObjects": pool_service_pb2.RestoreObjectsRequest(
            accept_other_pool=True, objects=[RENAMED]
        ),
        "PoolService/DesignateMaster": pool_service_pb2.DesignateMasterRequest(host="ignite"),
        "PoolService/DrillFailover": pool_service_pb2.DrillFailoverRequest(term=2, consent=True),
        "TaskService/CancelTask": task_service_pb2.CancelTaskRequest(task="no task"),
        "LockService/AcquireLock": lock_service_pb2.AcquireLockRequest(
            name="nightly", holder="ops", ttl_seconds=60
        ),
        "LockService/ReleaseLock": lock_service_pb2.ReleaseLockRequest(lock="no lock"),
    }
    for request in found.values():
        request.request_id = next(ids)
    found["PoolService/BatchUpdate"] = pool_service_pb2.BatchUpdateRequest(items=[item, item])
    return {f"/poolmanager.v1.{path}": request for path, request in found.items()}


async def answer(api: Api, path: str, request: Any) -> Any:
    """The raw answer: its bytes, or everything an error says."""
    call: Any = api.channel.unary_unary(path)
    try:
        data = await call(request.SerializeToString(), timeout=10.0)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details(), dict(error.trailing_metadata() or ())
    if path.endswith("/GetStatus"):
        status = pool_service_pb2.GetStatusResponse.FromString(data)
        for host in status.hosts:
            host.ClearField("lag_seconds")
        return status
    return data


async def test_every_unary_call_is_answered_by_a_member_as_by_the_master(
    cluster: Cluster,
) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as at_master, ignite.api() as at_member:
        state = await at_master.state()
        reads, writes = read_requests(state), write_requests(state.revision)
        unary = {path for path, method in METHODS.items() if not method.server_streaming}
        assert reads.keys() | writes.keys() == unary
        for path, request in reads.items():
            expected = await answer(at_master, path, request)
            assert await answer(at_member, path, request) == expected, path
        for path, request in writes.items():
            # A repeated request gets its first outcome, so the two have to be equal.
            expected = await answer(at_member, path, request)
            assert await answer(at_master, path, request) == expected, path
        tagged = [o for o in (await at_master.state()).objects() if getattr(o, "tags", None)]
        assert {o.KIND for o in tagged} == {
            Kind.POOL, Kind.HOST, Kind.SR, Kind.VDI, Kind.NETWORK, Kind.VM,
        }  # fmt: skip
    await same_replicas(phantom, ignite)


async def test_events_at_a_member_are_the_masters_each_once_and_in_order(
    cluster: Cluster,
) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as at_master, ignite.api() as at_member:
        assert await at_member.state() == await at_master.state()
        since = (await at_master.state()).revision
        async with asyncio.TaskGroup() as tasks:
            both = [
                tasks.create_task(api.commits_after(since, 300)) for api in (at_master, at_member)
            ]
            tasks.create_task(at_member.commits(300))
        one, other = (task.result() for task in both)
        assert one == other
        assert [c.commit.revision for c in one] == list(range(since + 1, since + 301))


async def test_a_host_comes_and_goes_by_way_of_a_member(cluster: Cluster) -> None:
    _, ignite = await a_pool(cluster)
    specter = cluster.local("specter")
    await specter.start()
    async with ignite.api() as at_member, specter.api() as at_specter:
        await at_member.join(specter.endpoint)
        assert await at_specter.srs() == await at_member.srs()
        await at_member.eject("specter")
        assert len(await at_specter.srs()) == 3


async def test_a_refusal_with_its_findings_is_passed_on_whole(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with phantom.api() as at_master, ignite.api() as at_member:
        refusals = []
        for api in (at_master, at_member):
            with pytest.raises(PoolError) as refused:
                await api.add_host(ignite.endpoint)
            refusals.append(refused.value)
    one, other = refusals
    assert (one.reason, one.params, one.findings) == (other.reason, other.params, other.findings)
    assert [finding.code for finding in one.findings] == ["HOST_ALREADY_IN_POOL"]


async def cut_off(
    member: Host, cluster: Cluster, *, write: bool, by: Callable[[], Awaitable[object]]
) -> Reason:
    """How a call ends that a member has passed on and that something ends meanwhile."""
    async with WaitingAgent(cluster.loopback.endpoint()) as nobody, member.api() as api:
        call = api.add_host(nobody.endpoint) if write else api.check_host(nobody.endpoint)
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(reason_of(call))
            await nobody.asked()
            await by()
            return await asking


async def reason_of(call: Any) -> Reason:
    with pytest.raises(PoolError) as failed:
        await call
    return failed.value.reason


CUT_OFF = pytest.mark.parametrize(
    ("write", "reason"), [(True, Reason.OUTCOME_UNKNOWN), (False, Reason.NO_MASTER)]
)


@CUT_OFF
async def test_a_call_that_a_change_of_role_cuts_off_ends_with_a_reason(
    write: bool, reason: Reason, cluster: Cluster
) -> None:
    _, ignite = await a_pool(cluster)
    began = time.monotonic()
    async with ignite.api() as api:
        eject = partial(api.eject_host, "ignite")
        assert await cut_off(ignite, cluster, write=write, by=eject) is reason
    assert time.monotonic() - began < 9.0


@CUT_OFF
async def test_a_call_that_the_masters_end_cuts_off_ends_with_a_reason(
    write: bool, reason: Reason, cluster: Cluster
) -> None:
    phantom, ignite = await a_pool(cluster)
    assert await cut_off(ignite, cluster, write=write, by=phantom.stop) is reason


async def test_events_that_a_change_of_role_cuts_off_end_with_a_reason(cluster: Cluster) -> None:
    _, ignite = await a_pool(cluster)
    async with ignite.api() as api, aclosing(events(api)) as watch:
        assert (await anext(watch)).HasField("head"), "it is being served"
        await api.eject_host("ignite")
        with pytest.raises(PoolError) as ended:
            await asyncio.wait_for(end_of(watch), 9.0)
    assert ended.value.reason is Reason.NO_MASTER


async def events(api: Api) -> AsyncGenerator[event_service_pb2.WatchResponse, None]:
    call = api.events.Watch(event_service_pb2.WatchRequest(since_revision=1))
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error
    finally:
        call.cancel()


async def end_of(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass
