"""Changing the members of a cluster of etcd, one at a time.

Every call is one attempt. What it came to when that is not known is found out by `members`: a
change has been made if they say so, and can be asked for again if not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import OutcomeUnknown, StoreUnavailable
from poolmaster.store.etcd.calls import (
    MEMBER_ADD,
    MEMBER_LIST,
    MEMBER_PROMOTE,
    MEMBER_REMOVE,
    MEMBER_UPDATE,
    RANGE,
    Method,
    Req,
    Res,
    described,
    was_not_applied,
)
from poolmaster.store.etcd.cluster import Cluster

CHANGE_SECONDS = 5.0
_NOT_NOW = (
    # A voter is not connected, or the last change was a few seconds ago.
    "etcdserver: unhealthy cluster",
    "etcdserver: re-configuration failed due to not enough started members",
    "etcdserver: can only promote a learner member which is in sync with leader",
    "etcdserver: too many learner members in cluster",
)


class NotNow(Exception):
    """etcd refuses the change as things are; nothing was changed."""


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """A member as the cluster knows it."""

    id: int
    name: str
    """Empty until it has started."""
    peer: str
    """`host:port` where the others reach it."""
    client: str
    """`host:port` where clients reach it; empty until it has started."""
    learner: bool


async def members(cluster: Cluster) -> tuple[ClusterMember, ...]:
    """The members, no older than this call.

    Raises `StoreUnavailable` without a quorum.
    """
    # Before etcd 3.5 a member tells what it knows itself; so one that is up to date is asked.
    try:
        endpoint = await cluster.answering(RANGE, pb.RangeRequest(key=b"\x00"))
        answer = await endpoint.call(
            MEMBER_LIST, pb.MemberListRequest(linearizable=True), seconds=CHANGE_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        raise StoreUnavailable(f"etcd: {described(error)}") from error
    return tuple(_member(member) for member in answer.members)


async def add_learner(cluster: Cluster, peer: str) -> ClusterMember:
    """Tell the cluster of a member that will be reached at `peer` (`host:port`), without a vote.

    Raises `NotNow`, `StoreUnavailable`, or `OutcomeUnknown`.
    """
    request = pb.MemberAddRequest(peer_urls=[f"http://{peer}"], is_learner=True)
    return _member((await _changed(cluster, MEMBER_ADD, request)).member)


async def promote(cluster: Cluster, member: int) -> None:
    """Give a learner its vote; raises as `add_learner` does, `NotNow` also if it is out already."""
    await _changed(cluster, MEMBER_PROMOTE, pb.MemberPromoteRequest(id=member))


async def remove(cluster: Cluster, member: int) -> None:
    """Take a member out; raises as `add_learner` does, but not when it is out already."""
    try:
        await _changed(cluster, MEMBER_REMOVE, pb.MemberRemoveRequest(id=member))
    except _NoSuchMember:
        return


async def update(cluster: Cluster, member: int, peer: str) -> None:
    """Tell the cluster that a member is reached at `peer` from now on; raises as `remove` does."""
    request = pb.MemberUpdateRequest(id=member, peer_urls=[f"http://{peer}"])
    try:
        await _changed(cluster, MEMBER_UPDATE, request)
    except _NoSuchMember:
        return


class _NoSuchMember(NotNow):
    pass


async def _changed(cluster: Cluster, method: Method[Req, Res], request: Req) -> Res:
    endpoint = await cluster.endpoint()
    try:
        return await endpoint.call(method, request, seconds=CHANGE_SECONDS)
    except grpc.aio.AioRpcError as error:
        problem = f"etcd at {endpoint.address}: {described(error)}"
        if (error.details() or "").startswith(_NOT_NOW):
            raise NotNow(problem) from error
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise _NoSuchMember(problem) from error
        if was_not_applied(error):
            raise StoreUnavailable(problem) from error
        raise OutcomeUnknown(problem) from error


def _member(member: pb.Member) -> ClusterMember:
    return ClusterMember(
        id=member.id,
        name=member.name,
        peer=_address(member.peer_urls),
        client=_address(member.client_urls),
        learner=member.is_learner,
    )


def _address(urls: Iterable[str]) -> str:
    return next(iter(urls), "").partition("://")[2]
