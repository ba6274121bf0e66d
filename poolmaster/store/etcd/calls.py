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
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse)

HAS_LEADER = (("hasleader", "true"),)
"""Sent with calls: a member that knows no leader refuses at once instead of letting them hang."""

_CERTAINLY_NOT_APPLIED = (
    "etcdserver: no leader",
    "etcdserver: not capable",
    "etcdserver: rpc not supported for learner",
    "etcdserver: too many requests",
)
"""Refused before it was proposed. `database space exceeded` is not among them: a transaction that
crosses the quota is applied and answered with it. Nor is anything that timed out."""

_TOO_LARGE = (
    "etcdserver: request is too large",
    "etcdserver: too many operations in txn request",
    # The limit of the member's gRPC server; the codes differ between releases.
    "grpc: received message larger than max",
    "trying to send message larger than max",
)
_LEASE_GONE = "etcdserver: requested lease not found"
_OTHER_MEMBERS_MAY_ANSWER = frozenset(
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
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Codes with which a request is refused before it is proposed, or by every member alike."""


def is_too_large(error: grpc.aio.AioRpcError) -> bool:
    """Whether the request exceeds a limit of the cluster."""
    return any(text in (error.details() or "") for text in _TOO_LARGE)


def is_lease_gone(error: grpc.aio.AioRpcError) -> bool:
    """Whether the request names a lease that has ended."""
    return (error.details() or "").startswith(_LEASE_GONE)


def was_not_applied(error: grpc.aio.AioRpcError) -> bool:
    """Whether what failed so was certainly not applied, and never will be."""
    details = error.details() or ""
    return details.startswith(_CERTAINLY_NOT_APPLIED) or error.code() in _REFUSED


def may_be_answered_by_another(error: grpc.aio.AioRpcError) -> bool:
    """Whether it is this member that cannot answer, not the request that is wrong."""
    return error.code() in _OTHER_MEMBERS_MAY_ANSWER


def described(error: grpc.aio.AioRpcError) -> str:
    """The error in one line."""
    return f"{error.code().name}: {error.details()}"
