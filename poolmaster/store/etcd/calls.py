"""The methods of etcd's API that are used, and what its errors say about a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message

from poolmanager.etcd.v3 import rpc_pb2 as pb

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Res]):
    """A method by its path on the wire, with its messages."""

    path: str
    request: type[Req]
    response: type[Res]


RANGE = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
DELETE_RANGE = Method("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest, pb.DeleteRangeResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
LEASE_REVOKE = Method(
    "/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse
)
LEASE_KEEP_ALIVE = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse
)
MEMBER_LIST = Method(
    "/etcdserverpb.Cluster/MemberList", pb.MemberListRequest, pb.MemberListResponse
)
MEMBER_ADD = Method("/etcdserverpb.Cluster/MemberAdd", pb.MemberAddRequest, pb.MemberAddResponse)
MEMBER_REMOVE = Method(
    "/etcdserverpb.Cluster/MemberRemove", pb.MemberRemoveRequest, pb.MemberRemoveResponse
)
MEMBER_PROMOTE = Method(
    "/etcdserverpb.Cluster/MemberPromote", pb.MemberPromoteRequest, pb.MemberPromoteResponse
)
MEMBER_UPDATE = Method(
    "/etcdserverpb.Cluster/MemberUpdate", pb.MemberUpdateRequest, pb.MemberUpdateResponse
)
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse)
ALARM = Method("/etcdserverpb.Maintenance/Alarm", pb.AlarmRequest, pb.AlarmResponse)
DEFRAGMENT = Method(
    "/etcdserverpb.Maintenance/Defragment", pb.DefragmentRequest, pb.DefragmentResponse
)
MOVE_LEADER = Method(
    "/etcdserverpb.Maintenance/MoveLeader", pb.MoveLeaderRequest, pb.MoveLeaderResponse
)

_NO_LEADER = ("etcdserver: no leader", "etcdserver: leader changed")
_CERTAINLY_NOT_APPLIED = (
    "etcdserver: no leader",
    "etcdserver: not capable",
    "etcdserver: rpc not supported for learner",
    "etcdserver: too many requests",
    # By the member's own Raft: it knows no leader, or gives the lead away just now.
    "raft proposal dropped",
)
"""Refused before it was proposed. `database space exceeded` is not among them: a transaction that
crosses the quota is applied and answered with it. Nor is anything that timed out."""

_TOO_LARGE = (
    "etcdserver: request is too large",
    "etcdserver: too many operations in txn request",
    # The limit of the member's gRPC server for what it receives.
    "grpc: received message larger than max",
)
_NO_SPACE = "etcdserver: mvcc: database space exceeded"
_LEASE_GONE = "etcdserver: requested lease not found"
_THIS_MEMBER_CANNOT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Codes with which etcd refuses a request before it is proposed, or at every member alike."""


def is_too_large(error: grpc.aio.AioRpcError) -> bool:
    """Whether the request exceeds a limit of the cluster, and so was not even proposed."""
    return any(text in (error.details() or "") for text in _TOO_LARGE)


def is_lease_gone(error: grpc.aio.AioRpcError) -> bool:
    """Whether the request names a lease that has ended."""
    return (error.details() or "").startswith(_LEASE_GONE)


def has_no_leader(error: grpc.aio.AioRpcError) -> bool:
    """Whether the member would answer if the cluster had a leader, or the same one as before."""
    return (error.details() or "").startswith(_NO_LEADER)


def has_no_space(error: grpc.aio.AioRpcError) -> bool:
    """Whether the cluster refuses what it is asked because a member has reached its quota."""
    return (error.details() or "").startswith(_NO_SPACE)


def never_proposed(error: grpc.aio.AioRpcError) -> bool:
    """Whether the member refused because of itself, before anybody else knew of the request."""
    return (error.details() or "").startswith(_CERTAINLY_NOT_APPLIED)


def was_not_applied(error: grpc.aio.AioRpcError) -> bool:
    """Whether what failed so was certainly not applied, and never will be."""
    # What stands between us and etcd has codes too, but not etcd's words.
    by_etcd = (error.details() or "").startswith("etcdserver: ")
    return never_proposed(error) or (by_etcd and error.code() in _REFUSED)


def may_be_answered_by_another(error: grpc.aio.AioRpcError) -> bool:
    """Whether it is this member that cannot answer, not the request or the whole cluster."""
    return error.code() in _THIS_MEMBER_CANNOT and not has_no_space(error)


def described(error: grpc.aio.AioRpcError) -> str:
    """The error in one line."""
    return f"{error.code().name}: {error.details()}"
