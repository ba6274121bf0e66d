"""Room in the files of a cluster's members: how much there is, and making some.

What was overwritten is dropped when the cluster is compacted, and its place is given back to the
file system only when a member is defragmented. The file counts against the quota, whatever of it
is in use. At the quota the cluster refuses every write until its alarm is ended.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import grpc

from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import StoreError, StoreUnavailable
from poolmaster.store.etcd.calls import (
    ALARM,
    COMPACT,
    DEFRAGMENT,
    MOVE_LEADER,
    RANGE,
    Method,
    Req,
    Res,
    described,
    has_no_space,
)
from poolmaster.store.etcd.cluster import Cluster, Endpoint
from poolmaster.store.etcd.membership import members

log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
COMPACT_SECONDS = 60.0
DEFRAGMENT_SECONDS = 120.0
"""A file at the quota is written anew in that time even on a slow disk."""
_NOSPACE = "alarm:NOSPACE"
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"


@dataclass(frozen=True, slots=True)
class Room:
    """How a member's file is."""

    id: int
    leader: int
    """The id of the leader that it knows; 0 for none."""
    size_bytes: int
    in_use_bytes: int
    quota_bytes: int | None
    """Told from etcd 3.6 on."""
    full: bool
    """Whether the cluster refuses writes because a member has reached its quota."""


async def room_of(cluster: Cluster, endpoint: Endpoint) -> Room | None:
    """How a member's file is; none when it does not answer."""
    try:
        found = await cluster.status(endpoint)
    except grpc.aio.AioRpcError:
        return None
    return Room(
        id=found.header.member_id,
        leader=found.leader,
        size_bytes=found.db_size,
        in_use_bytes=found.db_size_in_use,
        quota_bytes=found.db_size_quota or None,
        full=any(_NOSPACE in problem for problem in found.errors),
    )


async def compact(cluster: Cluster) -> None:
    """Drop whatever has been overwritten by now; the pool keeps its history in keys of its own.

    Raises `StoreUnavailable`.
    """
    endpoint = await cluster.answering(RANGE, pb.RangeRequest(key=b"\0"))
    present = await _asked(endpoint, RANGE, pb.RangeRequest(key=b"\0"), seconds=CALL_SECONDS)
    request = pb.CompactionRequest(revision=present.header.revision, physical=True)
    try:
        await endpoint.call(COMPACT, request, seconds=COMPACT_SECONDS)
    except grpc.aio.AioRpcError as error:
        if not (error.details() or "").startswith(_COMPACTED):
            raise _unavailable(endpoint, error) from error


async def defragment(cluster: Cluster, endpoint: Endpoint) -> None:
    """Have a member write its file anew; it answers nobody meanwhile. Raises `StoreUnavailable`."""
    if endpoint in cluster.endpoints:
        # It answers again when it is done.
        cluster.avoid(endpoint)
    log.info("the file of etcd at %s is written anew", endpoint.address)
    await _asked(endpoint, DEFRAGMENT, pb.DefragmentRequest(), seconds=DEFRAGMENT_SECONDS)


async def move_leader(leader: Endpoint, to: int) -> None:
    """Have the leader give the lead to that member; raises `StoreUnavailable`."""
    await _asked(leader, MOVE_LEADER, pb.MoveLeaderRequest(target_id=to), seconds=CALL_SECONDS)


def is_for_want_of_room(error: StoreError) -> bool:
    """Whether a store in etcd has failed because a member has reached its quota."""
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and has_no_space(cause)


async def make_room(cluster: Cluster) -> None:
    """Compact, defragment every member that answers, the leader last, and end the alarm.

    For a cluster of the pool's own. It may be repeated, and be done by two at once. Raises
    `StoreUnavailable`.
    """
    log.warning("the pool's etcd has reached its quota: room is made")
    await compact(cluster)
    addresses = [member.client for member in await members(cluster) if member.client]
    leaders = []
    for address in addresses:
        async with cluster.at(address) as endpoint:
            room = await room_of(cluster, endpoint)
            if room is not None and room.leader == room.id:
                leaders.append(address)
            elif room is not None:
                await defragment(cluster, endpoint)
    for address in leaders:
        async with cluster.at(address) as endpoint:
            await defragment(cluster, endpoint)
    await _end_alarms(cluster)


async def _end_alarms(cluster: Cluster) -> None:
    endpoint = await cluster.answering(RANGE, pb.RangeRequest(key=b"\0"))
    found = await _asked(endpoint, ALARM, pb.AlarmRequest(), seconds=CALL_SECONDS)
    for alarm in found.alarms:
        if alarm.alarm == pb.NOSPACE:
            request = pb.AlarmRequest(
                action=pb.AlarmRequest.DEACTIVATE, member_id=alarm.member_id, alarm=pb.NOSPACE
            )
            await _asked(endpoint, ALARM, request, seconds=CALL_SECONDS)


async def _asked(
    endpoint: Endpoint, method: Method[Req, Res], request: Req, *, seconds: float
) -> Res:
    try:
        return await endpoint.call(method, request, seconds=seconds)
    except grpc.aio.AioRpcError as error:
        raise _unavailable(endpoint, error) from error


def _unavailable(endpoint: Endpoint, error: grpc.aio.AioRpcError) -> StoreUnavailable:
    return StoreUnavailable(f"etcd at {endpoint.address}: {described(error)}")
